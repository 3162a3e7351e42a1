"""The roles that are sinks: `stdout` and `file`, made from the settings, and `routes`, made from the routes file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from enrich.diagnosis.rights import Needs
from enrich.diagnosis.watch import Diagnosis
from enrich.runtime.credentials import registry_with_credentials
from enrich.runtime.health import HealthServer
from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.token_review import metrics_guard
from enrich.wire.topics import Topic
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.group import GroupReader
from streams.kafka.lag import LagMonitor
from streams.metrics.progress import CALLS_OF_SINKS, ProgressMetrics
from streams.metrics.roles import SinkMetrics
from streams.roles.needs import sink_needs
from streams.roles.own_cluster import OwnCluster
from streams.roles.own_topics import OwnTopics
from streams.routes.model import Routes
from streams.routes.outputs import sink_definitions
from streams.routes.routes_file import RoutesFile
from streams.settings import Settings
from streams.sinks.feed import Feed, is_own_record
from streams.sinks.file import FileSink
from streams.sinks.pump import Pump
from streams.sinks.running_sinks import RunningSinks, check_definitions
from streams.sinks.sink import Sink
from streams.sinks.stdout import StdoutSink

log = structlog.get_logger("kubeweir.streams")


def _file_sink(settings: Settings) -> Sink:
    path = Path(settings.file_path)
    if not path.is_absolute():
        raise StopServiceError(f"WEIR_FILE_PATH={settings.file_path!r}: must begin with /", Exit.USAGE)
    return FileSink(path, settings.file_max_bytes, settings.file_keep)


SINK_MAKERS: Final[Mapping[str, Callable[[Settings], Sink]]] = {
    "stdout": lambda _settings: StdoutSink(sys.stdout.buffer),
    "file": _file_sink,
}
"""How each sink that is a role of its own is made from the settings."""


def make_sink(name: str, settings: Settings) -> Sink:
    """Make the sink of that name. Raises StopServiceError if no sink has the name, or if the sink cannot be made."""
    maker = SINK_MAKERS.get(name)
    if maker is None:
        raise StopServiceError(f"there is no sink {name!r}: the sinks are {', '.join(SINK_MAKERS)}", Exit.USAGE)
    return maker(settings)


def run_sink(name: str, settings: Settings, stop: threading.Event) -> int:
    """Run the sink `stdout` or `file` until ``stop``; return the exit code. Raises StopServiceError."""
    read: list[tuple[str, str]] = []

    def work(
        metrics: SinkMetrics, problems: list[Callable[[], str | None]], dead: DeadLetters, monitor: LagMonitor
    ) -> None:
        sink = make_sink(name, settings)
        own = _own_cluster(settings, problems, stop)
        if not _prepare_topics(settings, [settings.topics.flows, settings.topics.dead], problems, stop):
            return
        flows = settings.topics.flows.name
        group = own.group(f"sink.{name}")
        read[:] = [(flows, group)]
        reader = GroupReader(settings.connection(), group, flows, monitor=monitor, patience_s=settings.stall)
        feed = Feed(name, lambda _: True, partial(is_own_record, own.cluster))
        pump = Pump(feed, sink, reader, partial(dead.send, flows), metrics, stop)
        problems[:] = [pump.problem, monitor.problem]
        monitor.start(stop.set)
        pump.run()

    return _run(name, settings, stop, work, lambda: sink_needs(settings, read))


def run_routes(settings: Settings, stop: threading.Event) -> int:
    """Run the sinks of the routes file until ``stop``; return the exit code. Raises StopServiceError."""
    read: list[tuple[str, str]] = []

    def work(
        metrics: SinkMetrics, problems: list[Callable[[], str | None]], dead: DeadLetters, monitor: LagMonitor
    ) -> None:
        if not settings.routes:
            raise StopServiceError("WEIR_ROUTES is not set: the role routes needs a routes file", Exit.USAGE)
        topics, own = settings.topics, settings
        open_reader = partial(GroupReader, settings.connection(), monitor=monitor, patience_s=settings.stall)
        sinks = RunningSinks(open_reader, dead.send, metrics)

        def apply(routes: Routes) -> None:
            definitions = sink_definitions(routes, own, metrics)
            sinks.apply(definitions)
            read[:] = [(definition.topic, definition.group) for definition in definitions]

        # A mistake in the file, or in what it names, is reported at once, not only when Kafka can be reached.
        file = RoutesFile(Path(settings.routes), [topic.name for topic in topics], apply)
        check_definitions(sink_definitions(file.read(), own, metrics))
        own = _own_cluster(settings, problems, stop)
        if not _prepare_topics(settings, [topics.flows, topics.denied, topics.dead], problems, stop):
            return
        file.start()
        problems[:] = [file.problem, sinks.problem, monitor.problem]
        monitor.start(stop.set)
        try:
            while not stop.wait(0.1):
                sinks.check()
        finally:
            file.stop()
            sinks.stop()

    return _run("routes", settings, stop, work, lambda: sink_needs(settings, read))


def _own_cluster(settings: Settings, problems: list[Callable[[], str | None]], stop: threading.Event) -> Settings:
    """Return the settings with the id of the own cluster, and report in ``problems`` while it is not known."""
    own_cluster = OwnCluster(settings, every=True)
    problems.insert(0, own_cluster.problem)
    return own_cluster.find(stop)


def _prepare_topics(
    settings: Settings, topics: Sequence[Topic], problems: list[Callable[[], str | None]], stop: threading.Event
) -> bool:
    """Create the topics, and report in ``problems`` while a right is missing; return False if stopped meanwhile."""
    own_topics = OwnTopics(settings, stop)
    problems.insert(0, own_topics.problem)
    return own_topics.prepare(topics)


def _run(
    role: str,
    settings: Settings,
    stop: threading.Event,
    work: Callable[[SinkMetrics, list[Callable[[], str | None]], DeadLetters, LagMonitor], None],
    needs: Callable[[], Needs],
) -> int:
    registry = registry_with_credentials(settings)
    progress = ProgressMetrics(registry, CALLS_OF_SINKS)
    metrics = SinkMetrics(registry, progress.note)
    problems: list[Callable[[], str | None]] = [lambda: "Kafka has not been reached yet"]
    diagnosis = Diagnosis(settings.connection, needs)
    checks = {role: diagnosis.named(role, lambda: next(filter(None, (check() for check in problems)), None))}
    health = HealthServer(settings.metrics, registry, checks, details=progress.last_success.in_words,
                          guard=metrics_guard(settings))  # fmt: skip
    log.info("starting", role=role, metrics_port=health.port, kafka=settings.kafka, prefix=settings.prefix)
    dead = DeadLetters(settings.connection(), settings.topics.dead.name, stop)
    diagnosis.start()
    monitor = LagMonitor(settings.connection(), settings.stall, progress, diagnosis.causes)
    try:
        work(metrics, problems, dead, monitor)
    finally:
        monitor.stop()
        diagnosis.stop()
        health.close()
    monitor.check()
    log.info("stopped", role=role)
    return Exit.OK
