"""Asks whether the topics are there, with the partitions and the configuration that the services expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from enrich.wire.topics import Topic, Topics
from streams.cli.doctor.finding import Finding, ok, problem, warning
from streams.kafka.connection import Connection
from streams.kafka.topics import found_topics
from streams.settings import Settings

_OPTIONAL: Final = {
    "ended": "workers make it at their start: without it no connection's end is recorded (WEIR_ENDS)",
    "pairs": "workers make it with WEIR_PAIRS=1; without it there is no answer to backtest, recommend, policies, diff",
    "journal": "the role journal makes it; without it no question about the past is answered",
    "alerts": "the role alerts makes it",
    "deltas": "the role alerts makes it",
    "alert_state": "the role alerts makes it",
}
"""The topics, as fields of :class:`Topics`, without which verdicts become records all the same."""


def topics(connection: Connection, settings: Settings, *, partitions_given: bool) -> Iterator[Finding]:
    """Compare what is there with what the settings say.

    ``partitions_given``: whether WEIR_PARTITIONS is set here. Otherwise the raw topic, which only services make, says
    how many partitions are right."""
    found = found_topics(connection, [topic.name for topic in settings.topics])
    expected = settings.topics
    raw = found.get(expected.raw.name)
    if raw and not partitions_given:
        expected = replace(settings, partitions=max(1, raw[0])).topics
    right = []
    for field in Topics.__dataclass_fields__:
        topic: Topic = getattr(expected, field)
        if topic.name not in found:
            yield _absent(field, topic.name)
            continue
        differences = _differences(topic, *found[topic.name])
        for text in differences:
            yield warning(topic.name, text)
        if not differences:
            right.append(topic)
    if right:
        shown = ", ".join(f"{topic.name.removeprefix(settings.prefix)[1:]} {topic.partitions}" for topic in right)
        yield ok(f"{settings.prefix}.*", f"topics with their partitions: {shown}")
    unknown = sum(config is None for _, config in found.values())
    if unknown:
        yield ok(
            f"{settings.prefix}.*", f"the configuration of {unknown} topics was not looked at: no DESCRIBE_CONFIGS"
        )


def _absent(field: str, name: str) -> Finding:
    if field in _OPTIONAL:
        return ok(name, f"is not there, or not shown: {_OPTIONAL[field]}")
    return problem(
        name,
        "is not there, or not shown to this user: has weir-streams run with this WEIR_KAFKA and WEIR_TOPIC_PREFIX, and "
        "may it create topics? docs/kafka.md has the commands that create them",
    )


def _differences(topic: Topic, partitions: int, config: Mapping[str, str | None] | None) -> list[str]:
    # A configuration that is not known differs in nothing.
    return topic.differences(partitions, topic.config if config is None else config)
