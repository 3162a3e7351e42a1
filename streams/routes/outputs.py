"""The sinks that a routes file names, each with a consumer group of its own."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.client import Client
from enrich.sources.source import SourceError
from enrich.wire.flow import decode_flow
from streams.config.fields import seconds
from streams.matching.matcher import Matcher
from streams.matching.model import Match, Verdict, as_list
from streams.metrics.roles import SinkMetrics
from streams.routes.model import GKE_PATH, Events, Otlp, Route, RouteOutput, Routes
from streams.settings import Settings
from streams.sinks.events import EventSink
from streams.sinks.file import FileSink
from streams.sinks.registry import MadeSink, SinkDefinition
from streams.sinks.sink import Sink
from streams.sinks.stdout import StdoutSink


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output of a route that is a sink."""

    name: str
    """<route>.<kind>, and a number behind it if it is not the first of its kind: the group's name too."""
    route: Route
    output: RouteOutput

    @property
    def content(self) -> bytes:
        """What it is made of: the same content needs no restart."""
        return msgspec.json.encode((self.route.match, self.route.excluded, self.route.sample, self.output))


def wanted_sinks(routes: Routes) -> list[Wanted]:
    """All outputs that are no Kafka topics."""
    found = []
    for route in routes.routes:
        kinds: Counter[str] = Counter()
        for output in route.outputs:
            if output.kafka is None:
                kinds[output.kind] += 1
                number = f".{kinds[output.kind]}" if kinds[output.kind] > 1 else ""
                found.append(Wanted(f"{route.name}.{output.kind}{number}", route, output))
    return found


def only_denied(route: Route) -> bool:
    """Whether all that a route takes is on the topic of denied flows."""
    matches: list[Match] = as_list(route.match)
    verdicts: list[list[Verdict]] = [as_list(match.verdict) for match in matches]
    return all(match.verdict is not None for match in matches) and not any("allow" in one for one in verdicts)


def make_sink(wanted: Wanted, metrics: SinkMetrics) -> Sink:
    """Raises StopServiceError."""
    events = wanted.output.events
    if events is not None:
        return _events(wanted.name, events, metrics)
    if wanted.output.otlp is not None:
        return _otlp(wanted.route.name, wanted.output.otlp)
    file = wanted.output.file
    if file is None:
        return StdoutSink(sys.stdout.buffer)
    path = Path(file.path or GKE_PATH)
    age = seconds(file.max_age) if file.max_age else None
    named = f"route {wanted.route.name}: {str(path)!r}"
    return FileSink(path, file.max_bytes, file.keep, max_age_s=age, compress=file.gzip, named=named)


def _events(name: str, events: Events, metrics: SinkMetrics) -> Sink:
    client = Client()
    try:
        client.connect()
    except SourceError as error:
        raise StopServiceError(f"sink {name}: {error}", Exit.USAGE) from error

    def suppressed(why: str) -> None:
        metrics.suppressed.labels(name, why).inc()

    return EventSink(client.post, seconds(events.every), events.per_minute, suppressed)


def _otlp(route: str, otlp: Otlp) -> Sink:
    # It takes a while to import, and few need it.
    from streams.sinks.otlp import OtlpSink  # noqa: PLC0415 - as above

    missing = [name for name in otlp.headers.values() if name not in os.environ]
    if missing:
        raise StopServiceError(f"route {route}: otlp.headers: {missing[0]} is not in the environment", Exit.USAGE)
    headers = {header: os.environ[name] for header, name in otlp.headers.items()}
    return OtlpSink(otlp.endpoint, headers, seconds(otlp.timeout))


def takes(matcher: Matcher, value: bytes) -> bool:
    """Return whether a route takes a record. Raises ValueError for bytes that are not a record."""
    return matcher.takes(decode_flow(value))


def sink_definitions(routes: Routes, settings: Settings, metrics: SinkMetrics) -> list[SinkDefinition]:
    """The sinks of a routes file, for :class:`streams.sinks.registry.SinkRegistry`."""
    return [_definition(wanted, settings, metrics) for wanted in wanted_sinks(routes)]


def _definition(wanted: Wanted, settings: Settings, metrics: SinkMetrics) -> SinkDefinition:
    def make() -> MadeSink:
        sink = make_sink(wanted, metrics)
        if isinstance(sink, FileSink):
            # Its predecessor may still write the same file; a closed file sink opens its file at its first write.
            sink.close()
        return MadeSink(sink, partial(takes, wanted.route.matcher()))

    topic = settings.topics.denied if only_denied(wanted.route) else settings.topics.flows
    return SinkDefinition(wanted.name, topic.name, f"{settings.prefix}.route.{wanted.name}", wanted.content, make)
