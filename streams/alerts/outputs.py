"""The sinks that alerts go to: each reads the topic of alerts with a consumer group of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal

import msgspec
import orjson

from enrich.runtime.process import Exit, StopServiceError
from enrich.wire.whose import is_foreign
from streams.alerts.alert import AlertState
from streams.alerts.check import base_url_problem
from streams.alerts.model import OUTPUT_KINDS, AlertmanagerOutput, AlertOutput, Alerts
from streams.config.fields import seconds
from streams.config.http_target import HttpTarget, open_target, url_problem
from streams.kafka.connection import ReadError
from streams.kafka.reading import read_committed
from streams.kafka.topics import partitions_of
from streams.settings import Settings
from streams.sinks.alertmanager import AlertmanagerSink
from streams.sinks.feed import is_own_alert
from streams.sinks.http import Poster
from streams.sinks.makers import checked_makers
from streams.sinks.running_sinks import MadeSink, SinkDefinition
from streams.sinks.sink import SinkError
from streams.sinks.webhook import WebhookSink


class _AlertRecord(msgspec.Struct):
    """What every sink of alerts needs of a record of the topic of alerts."""

    fingerprint: str
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str]
    startsAt: str  # noqa: N815 - the name in the record
    endsAt: str = ""  # noqa: N815 - as above
    id: str = ""


_DECODER: Final = msgspec.json.Decoder(_AlertRecord)


def configured_outputs(alerts: Alerts, settings: Settings) -> dict[str, AlertOutput]:
    """Return the outputs of the file and the Alertmanagers of the setting WEIR_ALERTMANAGER, by name.

    Raises StopServiceError if the setting has what is not the URL of an Alertmanager."""
    outputs = {output.name: output for output in alerts.outputs}
    for url in settings.alertmanager:
        problem = url_problem(url) or base_url_problem(url)
        if problem:
            raise StopServiceError(f"WEIR_ALERTMANAGER: {problem}, such as http://alertmanager:9093", Exit.USAGE)
        # Named by a hash of the address: reordering the setting must not swap the consumer groups.
        name = f"setting-{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}"
        outputs[name] = AlertOutput(name=name, alertmanager=AlertmanagerOutput(url=url))
    return outputs


def sink_definitions(alerts: Alerts, settings: Settings) -> list[SinkDefinition]:
    """Return the sinks of an alerts file, for :class:`streams.sinks.running_sinks.RunningSinks`."""
    return [_definition(output, settings) for output in configured_outputs(alerts, settings).values()]


def _definition(output: AlertOutput, settings: Settings) -> SinkDefinition:
    maker = _MAKERS[output.kind]
    group = settings.group(f"alerts.to.{output.name}")
    make = partial(maker, output, settings)
    return SinkDefinition(f"alerts.{output.name}", settings.topics.alerts.name, group, output, make)


def _alertmanager(output: AlertOutput, settings: Settings) -> MadeSink:
    target = output.alertmanager
    assert target is not None  # noqa: S101 - the kind of the output
    sink = AlertmanagerSink(_poster(output.name, target, target.timeout, "/api/v2/alerts"), seconds(target.resend))
    is_own = partial(is_own_alert, settings.cluster)
    on_assigned = partial(_on_assigned, sink, settings)
    # A new Alertmanager begins with what fires now, because that is repeated.
    return MadeSink(sink, _is_alert, on_assigned=on_assigned, on_new=lambda: None, is_own=is_own)


def _webhook(output: AlertOutput, settings: Settings) -> MadeSink:
    target = output.webhook
    assert target is not None  # noqa: S101 - as above
    sink = WebhookSink(_poster(output.name, target, target.timeout))
    is_own = partial(is_own_alert, settings.cluster)
    return MadeSink(sink, _is_alert, on_new=partial(sink.begin, partial(_firing, settings)), is_own=is_own)


_MAKERS: Final[Mapping[str, Callable[[AlertOutput, Settings], MadeSink]]] = checked_makers(
    "alerts", OUTPUT_KINDS, {"alertmanager": _alertmanager, "webhook": _webhook}
)
"""How the sink of each kind of output is made. Each raises StopServiceError if it cannot be."""


def _is_alert(value: bytes) -> bool:
    """Return True for a record of an alert. Raises ValueError for anything else."""
    try:
        _DECODER.decode(value)
        orjson.loads(value)  # it refuses texts that the other skips, and the sinks read records by it
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error
    return True


def _poster(output: str, target: HttpTarget, timeout: str, path: str = "") -> Poster:
    """Return a poster to an output's address; ``path`` is added to it. Raises StopServiceError if it cannot be used."""
    named = f"output {output}"
    found = open_target(target, "url", named)
    problem = base_url_problem(found.url) if path else None
    if problem:
        raise StopServiceError(f"{named}: the URL {problem}", Exit.USAGE)
    url = f"{found.url.rstrip('/')}{path}" if path else found.url
    return Poster(url, found.headers, seconds(timeout), found.ca, found.certificate)


def _on_assigned(sink: AlertmanagerSink, settings: Settings, partitions: Sequence[int]) -> None:
    """Let the worker that reads the topic, which has one partition, repeat the firing alerts; no other worker does."""
    sink.own(partial(_firing, settings) if partitions else None)


def _firing(settings: Settings) -> list[Mapping[str, object]]:
    """Return the records of all firing alerts of this cluster, from the topic of states. Raises SinkError."""
    topic, connection = settings.topics.alert_state.name, settings.connection()
    try:
        records = list(read_committed(connection, topic, range(partitions_of(connection, [topic])[topic])))
    except ReadError as error:
        raise SinkError(f"the alerts that fire cannot be read from {topic}: {error}") from error
    latest = {record.key: record.value for record in records if not record.key.startswith(b"change/")}
    firing = (_firing_record(value, settings.cluster) for value in latest.values() if value)
    return [record for record in firing if record is not None]


def _firing_record(value: bytes, cluster: str) -> Mapping[str, object] | None:
    """Return the record of the alert if it is this cluster's and fires. The engine loop reports a state that cannot be
    decoded."""
    try:
        state = msgspec.json.decode(value, type=AlertState)
        is_own = bool(state.group) and not is_foreign(state.group[0], cluster)
        if is_own and state.status == "firing":
            msgspec.convert(state.record, _AlertRecord)
            return state.record
    except (ValueError, RecursionError):
        pass
    return None
