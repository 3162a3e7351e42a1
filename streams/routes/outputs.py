"""The sinks that a routes file names, each with a consumer group of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.client import Client
from enrich.sources.source import SourceError
from enrich.wire.flow import decode_flow
from streams.config.fields import seconds
from streams.config.http_target import is_base, open_target
from streams.forms import Form, converter
from streams.matching.matcher import Matcher
from streams.matching.model import Match, Verdict, as_list
from streams.metrics.roles import SinkMetrics
from streams.routes.model import GKE_PATH, OUTPUT_KINDS, Events, File, Route, RouteOutput, Routes, Stdout
from streams.settings import Settings
from streams.sinks.events import EventSink
from streams.sinks.feed import is_own_record
from streams.sinks.file import FileSink
from streams.sinks.formed import FormedSink
from streams.sinks.makers import checked_makers
from streams.sinks.running_sinks import MadeSink, SinkDefinition
from streams.sinks.sink import Sink
from streams.sinks.stdout import StdoutSink


@dataclass(frozen=True, slots=True)
class RouteSink:
    """One output of a route that is not a Kafka topic."""

    name: str
    """``<route>.<name of the output>``, which is part of the name of the consumer group."""
    route: Route
    output: RouteOutput

    @property
    def content(self) -> bytes:
        """Everything in the file that the sink is made from: equal content needs no restart."""
        return msgspec.json.encode((self.route.match, self.route.excluded, self.route.sample, self.output))


def route_sinks(routes: Routes) -> list[RouteSink]:
    """Return all outputs that are not Kafka topics."""
    return [
        RouteSink(f"{route.name}.{output.name or output.kind}", route, output)
        for route in routes.routes
        for output in route.outputs
        if output.kafka is None
    ]


def group_prefix(settings: Settings) -> str:
    """Return how the names of all consumer groups of the routes of a cluster begin."""
    return settings.group("route.")


def only_denied(route: Route) -> bool:
    """Return whether every record that a route takes is in the topic of denied flows."""
    matches: list[Match] = as_list(route.match)
    verdicts: list[list[Verdict]] = [as_list(match.verdict) for match in matches]
    return all(match.verdict is not None for match in matches) and not any("allow" in one for one in verdicts)


def _file(one: RouteSink, _metrics: SinkMetrics) -> Sink:
    file = one.output.file or File()
    path = Path(file.path or GKE_PATH)
    age = seconds(file.max_age) if file.max_age else None
    named = f"route {one.route.name}: {str(path)!r}"
    sink = FileSink(path, file.max_bytes, file.keep, max_age_s=age, compress=file.gzip, named=named)
    # Its predecessor may still write the same file; a closed file sink opens its file at its first write.
    sink.close()
    return _formed(sink, file.form)


def _stdout(one: RouteSink, _metrics: SinkMetrics) -> Sink:
    return _formed(StdoutSink(sys.stdout.buffer), (one.output.stdout or Stdout()).form)


def _formed(sink: Sink, form: Form) -> Sink:
    convert = converter(form)
    return sink if convert is None else FormedSink(sink, convert)


def _events(one: RouteSink, metrics: SinkMetrics) -> Sink:
    events = one.output.events or Events()
    client = Client()
    try:
        client.connect()
    except SourceError as error:
        raise StopServiceError(f"sink {one.name}: {error}", Exit.USAGE) from error

    def count_suppressed(reason: str) -> None:
        metrics.suppressed.labels(one.name, reason).inc()

    return EventSink(client.post, seconds(events.every), events.per_minute, count_suppressed)


def _otlp(one: RouteSink, _metrics: SinkMetrics) -> Sink:
    # The SDK is slow to import, and few need it.
    from streams.sinks.otlp import OtlpSink  # noqa: PLC0415 - as above

    otlp = one.output.otlp
    assert otlp is not None  # noqa: S101 - the kind of the output
    named = f"route {one.route.name}: otlp"
    found = open_target(otlp, "endpoint", named)
    if otlp.protocol == "grpc" and not is_base(found.url):
        raise StopServiceError(f"{named}: the endpoint must have no path with `protocol: grpc`", Exit.USAGE)
    try:
        return OtlpSink(
            found.url, found.headers, seconds(otlp.timeout), found.ca, found.certificate, otlp.protocol,
            converter(otlp.form),
        )  # fmt: skip
    except ImportError as error:
        raise StopServiceError(
            f"{named}: `protocol: grpc` needs the package grpcio, which the image has: pip install '.[otlp-grpc]' in a "
            f"clone, or 'kubeweir-VERSION-py3-none-any.whl[otlp-grpc]' ({error})",
            Exit.UNABLE,
        ) from error


_MAKERS: Final[Mapping[str, Callable[[RouteSink, SinkMetrics], Sink]]] = checked_makers(
    "routes",
    set(OUTPUT_KINDS) - {"kafka"},
    {"file": _file, "stdout": _stdout, "otlp": _otlp, "events": _events},
)
"""How the sink of each kind of output is made. Each raises StopServiceError if it cannot be."""


def takes(matcher: Matcher, value: bytes) -> bool:
    """Return whether a route takes a record. Raises ValueError for bytes that are not a record."""
    flow = decode_flow(value)
    return flow.logged and matcher.takes(flow)


def sink_definitions(routes: Routes, settings: Settings, metrics: SinkMetrics) -> list[SinkDefinition]:
    """Return the sinks of a routes file, for :class:`streams.sinks.running_sinks.RunningSinks`."""
    return [_definition(one, settings, metrics) for one in route_sinks(routes)]


def _definition(one: RouteSink, settings: Settings, metrics: SinkMetrics) -> SinkDefinition:
    maker = _MAKERS[one.output.kind]

    def make() -> MadeSink:
        is_own = partial(is_own_record, settings.cluster)
        return MadeSink(maker(one, metrics), partial(takes, one.route.matcher()), is_own=is_own)

    topic = settings.topics.denied if only_denied(one.route) else settings.topics.flows
    return SinkDefinition(one.name, topic.name, group_prefix(settings) + one.name, one.content, make)
