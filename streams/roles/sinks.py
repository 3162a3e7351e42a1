"""The roles that are sinks: `stdout` and `file`, made from the settings, and `routes`, made from the routes file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.group import GroupReader
from streams.metrics.progress import CALLS_OF_SINKS
from streams.metrics.roles import SinkMetrics
from streams.roles.needs import sink_needs
from streams.roles.running_role import RunningRole, run_role
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

    def work(role: RunningRole) -> None:
        metrics, dead = _outputs(role)
        sink = make_sink(name, settings)
        role.find_cluster(every=True)
        if not role.prepare_topics(settings.topics.flows, settings.topics.dead):
            return
        flows, group = settings.topics.flows.name, role.settings.group(f"sink.{name}")
        role.needs = sink_needs(settings, [(flows, group)])
        reader = GroupReader(settings.connection(), group, flows, monitor=role.monitor, patience_s=settings.stall)
        feed = Feed(name, lambda _: True, partial(is_own_record, role.settings.cluster))
        pump = Pump(feed, sink, reader, partial(dead.send, flows), metrics, stop)
        role.begin(pump.problem, role.monitor.problem)
        pump.run()

    return run_role(name, settings, stop, CALLS_OF_SINKS, work)


def run_routes(settings: Settings, stop: threading.Event) -> int:
    """Run the sinks of the routes file until ``stop``; return the exit code. Raises StopServiceError."""
    return run_role("routes", settings, stop, CALLS_OF_SINKS, _run_routes)


def _run_routes(role: RunningRole) -> None:
    metrics, dead = _outputs(role)
    settings = role.settings
    if not settings.routes:
        raise StopServiceError("WEIR_ROUTES is not set: the role routes needs a routes file", Exit.USAGE)
    topics = settings.topics
    open_reader = partial(GroupReader, settings.connection(), monitor=role.monitor, patience_s=settings.stall)
    sinks = RunningSinks(open_reader, dead.send, metrics)

    def apply(routes: Routes) -> None:
        definitions = sink_definitions(routes, role.settings, metrics)
        sinks.apply(definitions)
        role.needs = sink_needs(settings, [(one.topic, one.group) for one in definitions])

    # A mistake in the file, or in what it names, is reported at once, not only when Kafka can be reached.
    file = RoutesFile(Path(settings.routes), [topic.name for topic in topics], apply)
    check_definitions(sink_definitions(file.read(), settings, metrics))
    role.find_cluster(every=True)
    if not role.prepare_topics(topics.flows, topics.denied, topics.dead):
        return
    role.stack.callback(sinks.stop)
    file.start()
    role.stack.callback(file.stop)
    role.begin(file.problem, sinks.problem, role.monitor.problem)
    while not role.stop.wait(0.1):
        sinks.check()


def _outputs(role: RunningRole) -> tuple[SinkMetrics, DeadLetters]:
    """Return what every sink counts and writes, and say that it needs the topic of dead letters."""
    role.needs = sink_needs(role.settings, [])
    dead = DeadLetters(role.settings.connection(), role.settings.topics.dead.name, role.stop)
    return SinkMetrics(role.registry, role.progress.note), dead
