"""The sinks that alerts go to: each reads the topic of alerts with a consumer group of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from enrich.runtime.process import Exit, StopServiceError
from streams.alerts.alert import AlertState
from streams.alerts.model import AlertmanagerOutput, AlertOutput, Alerts
from streams.config.fields import seconds
from streams.kafka.connection import ReadError
from streams.kafka.exactly_once import TransactionAbortedError
from streams.kafka.reading import read_committed
from streams.kafka.topics import partitions_of
from streams.settings import Settings
from streams.sinks.alertmanager import AlertmanagerSink
from streams.sinks.http import Poster
from streams.sinks.registry import MadeSink, SinkDefinition
from streams.sinks.sink import Sink
from streams.sinks.webhook import WebhookSink


def configured_outputs(alerts: Alerts, settings: Settings) -> dict[str, AlertOutput]:
    """Return the outputs of the file and the Alertmanagers of the setting WEIR_ALERTMANAGER, by name."""
    outputs = {output.name: output for output in alerts.outputs}
    for url in settings.alertmanager:
        # Named by a hash of the address: reordering the setting must not swap the consumer groups.
        name = f"setting-{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}"
        outputs[name] = AlertOutput(name=name, alertmanager=AlertmanagerOutput(url=url))
    return outputs


def sink_definitions(alerts: Alerts, settings: Settings) -> list[SinkDefinition]:
    """Return the sinks of an alerts file, for :class:`streams.sinks.registry.SinkRegistry`."""
    return [_definition(output, settings) for output in configured_outputs(alerts, settings).values()]


def _definition(output: AlertOutput, settings: Settings) -> SinkDefinition:
    def make() -> MadeSink:
        sink = _make_sink(output)
        on_assigned = partial(_on_assigned, sink, settings) if isinstance(sink, AlertmanagerSink) else None
        return MadeSink(sink, on_assigned=on_assigned)

    group = f"{settings.prefix}.alerts.to.{output.name}"
    return SinkDefinition(f"alerts.{output.name}", settings.topics.alerts.name, group, output, make)


def _make_sink(output: AlertOutput) -> Sink:
    """Raises StopServiceError if a header's variable is not in the environment."""
    target = output.alertmanager or output.webhook
    assert target is not None  # noqa: S101 - streams.alerts.check requires one of them
    missing = [variable for variable in target.headers.values() if variable not in os.environ]
    if missing:
        raise StopServiceError(f"output {output.name}: headers: {missing[0]} is not in the environment", Exit.USAGE)
    headers = {header: os.environ[variable] for header, variable in target.headers.items()}
    if isinstance(target, AlertmanagerOutput):
        poster = Poster(f"{target.url.rstrip('/')}/api/v2/alerts", headers, seconds(target.timeout))
        return AlertmanagerSink(poster, seconds(target.resend))
    return WebhookSink(Poster(target.url, headers, seconds(target.timeout)))


def _on_assigned(sink: AlertmanagerSink, settings: Settings, partitions: Sequence[int]) -> None:
    """Let the worker that reads the topic, which has one partition, repeat the firing alerts; no other worker does."""
    sink.own(_firing(settings) if partitions else ())


def _firing(settings: Settings) -> list[Mapping[str, object]]:
    """Return the records of all firing alerts, from the topic of states. Raises TransactionAbortedError."""
    topic, connection = settings.topics.alert_state.name, settings.connection()
    try:
        records = list(read_committed(connection, topic, range(partitions_of(connection, [topic])[topic])))
    except ReadError as error:
        raise TransactionAbortedError(str(error)) from error
    latest = {record.key: record.value for record in records if not record.key.startswith(b"change/")}
    states = [msgspec.json.decode(value, type=AlertState) for value in latest.values() if value]
    return [state.record for state in states if state.status == "firing"]
