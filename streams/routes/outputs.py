"""The sinks of the routes file: each a loop of its own with a group of its own, started and stopped as it says."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import orjson
import structlog

from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.client import Client
from enrich.sources.source import SourceError
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.group import GroupReader
from streams.matching.matcher import Matcher
from streams.metrics.roles import SinkMetrics
from streams.routes.model import GKE_PATH, Events, Match, Otlp, Output, Route, Routes, Verdict, listed, seconds
from streams.settings import Settings
from streams.sinks.events import EventSink
from streams.sinks.file import FileSink
from streams.sinks.pump import Feed, Pump
from streams.sinks.sink import Sink
from streams.sinks.stdout import StdoutSink

log = structlog.get_logger("kubeweir.streams")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output of a route that is a sink."""

    name: str
    """<route>.<kind>, and a number behind it if it is not the first of its kind: the group's name too."""
    route: Route
    output: Output

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
    matches: list[Match] = listed(route.match)
    verdicts: list[list[Verdict]] = [listed(match.verdict) for match in matches]
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
    """Whether a route takes a record. Raises ValueError for what is none."""
    try:
        return matcher.takes(orjson.loads(value))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


class _Loop:
    """A sink at work on its thread."""

    def __init__(self, wanted: Wanted, settings: Settings, metrics: SinkMetrics, dead: DeadLetters) -> None:
        self.content = wanted.content
        self.failed: StopServiceError | None = None
        self._wanted, self._settings, self._metrics, self._dead = wanted, settings, metrics, dead
        self._stop = threading.Event()
        self._sink = make_sink(wanted, metrics)
        if isinstance(self._sink, FileSink):
            # Another one may be at work on the same file until this one starts; it opens again when it writes.
            self._sink.close()
        self._thread = threading.Thread(target=self._run, name=wanted.name, daemon=True)
        self._pump: Pump | None = None

    def problem(self) -> str | None:
        """What keeps it from its work."""
        told = self._pump.problem() if self._pump else None
        return f"{self._wanted.name}: {told}" if told else None

    def start(self) -> None:
        """Begin."""
        topics = self._settings.topics
        topic = topics.denied.name if only_denied(self._wanted.route) else topics.flows.name
        group = f"{self._settings.prefix}.route.{self._wanted.name}"
        feed = Feed(self._wanted.name, partial(takes, Matcher(self._wanted.route)))
        reader = GroupReader(self._settings.connection(), group, topic)
        self._pump = Pump(feed, self._sink, reader, partial(self._dead.bury, topic), self._metrics, self._stop)
        self._thread.start()
        log.info("sink started", sink=self._wanted.name, topic=topic, group=group)

    def stop(self) -> None:
        """End; what is not committed comes again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        assert self._pump is not None  # noqa: S101 - made by start
        try:
            self._pump.run()
        except StopServiceError as error:
            self.failed = error
        except Exception as error:
            # A bug of ours; a thread that ends in silence would leave its sink behind.
            log.exception("a sink ended", sink=self._wanted.name)
            self.failed = StopServiceError(f"sink {self._wanted.name}: {error!r}", Exit.UNEXPECTED)


class RoutedSinks:
    """All of them."""

    def __init__(self, settings: Settings, metrics: SinkMetrics, dead: DeadLetters) -> None:
        self._settings, self._metrics, self._dead = settings, metrics, dead
        self._loops: dict[str, _Loop] = {}

    def take_over(self, routes: Routes) -> None:
        """Stop what is no longer wanted, start what is new. Raises StopServiceError, and then nothing has changed."""
        wanted = {one.name: one for one in wanted_sinks(routes)}
        loops = {
            name: loop for name, loop in self._loops.items() if name in wanted and loop.content == wanted[name].content
        }
        fresh = {
            name: _Loop(one, self._settings, self._metrics, self._dead)
            for name, one in wanted.items()
            if name not in loops
        }
        for name, loop in self._loops.items():
            if name not in loops:
                loop.stop()
                log.info("sink stopped", sink=name)
        for loop in fresh.values():
            loop.start()
        self._loops = {**loops, **fresh}

    def problem(self) -> str | None:
        """What keeps any of them from its work."""
        return "; ".join(told for loop in self._loops.values() if (told := loop.problem())) or None

    def check(self) -> None:
        """Raises StopServiceError if one has ended for good."""
        for loop in self._loops.values():
            if loop.failed is not None:
                raise loop.failed

    def stop(self) -> None:
        """End all."""
        for loop in self._loops.values():
            loop.stop()
