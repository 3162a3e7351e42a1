"""What each role reads and writes on Kafka, and the groups by which it reads."""

from __future__ import annotations

from collections.abc import Iterable

from enrich.diagnosis.rights import Needs
from streams.kafka.reading import reader_group
from streams.settings import Settings


def enrich_needs(settings: Settings) -> Needs:
    """Return what the role enrich needs; topics of routes are counted by their routes."""
    topics = settings.topics
    return Needs(
        reads=frozenset({topics.raw.name, topics.endpoints.name}),
        writes=frozenset(
            {topics.flows.name, topics.denied.name, topics.ended.name, topics.status.name, topics.dead.name}
        ),
        groups=frozenset({settings.group("enrich"), reader_group(topics.endpoints.name)}),
    )


def sink_needs(settings: Settings, groups: Iterable[tuple[str, str]]) -> Needs:
    """Return what sinks need that read a topic by a group: pairs of topic and group."""
    pairs = list(groups)
    return Needs(
        reads=frozenset(topic for topic, _ in pairs),
        writes=frozenset({settings.topics.dead.name}),
        groups=frozenset(group for _, group in pairs),
    )


def alerts_needs(settings: Settings, groups: Iterable[tuple[str, str]]) -> Needs:
    """Return what the role alerts needs, with its outputs: pairs of topic and group."""
    topics, outputs = settings.topics, sink_needs(settings, groups)
    own = {topics.alerts.name, topics.deltas.name, topics.alert_state.name, topics.status.name}
    return Needs(
        reads=outputs.reads | {topics.denied.name, topics.status.name, topics.deltas.name, topics.alert_state.name},
        writes=outputs.writes | own,
        groups=outputs.groups
        | {
            settings.group("alerts.count"),
            settings.group("alerts.engine"),
            reader_group(topics.alert_state.name),
        },
        transactions=frozenset({settings.group("alerts.")}),
    )


def journal_needs(settings: Settings) -> Needs:
    """Return what the role journal needs."""
    topics = settings.topics
    return Needs(
        reads=frozenset({topics.journal.name}),
        writes=frozenset({topics.journal.name, topics.dead.name}),
        groups=frozenset({settings.group("journal"), reader_group(topics.journal.name)}),
        transactions=frozenset({settings.group("journal.")}),
    )
