"""The sinks that a configuration file names, each on its own thread: started, kept and stopped as the file changes.

Theory of operation. :meth:`RunningSinks.apply` takes the sinks of the new file and works in three steps:

1. It makes every sink that is new or whose content changed. If one cannot be made (its header's variable is missing
   from the environment, its folder cannot be written), it closes those just made and raises: every old sink keeps
   running, as the log then says.
2. It stops the sinks that the file no longer names, and the old sink of each that changed. They leave their groups.
3. It starts the new sinks. A new sink joins the consumer group of its predecessor only now, so that the two never
   share the partitions of their topic.

A sink whose content is the same is not touched: its destination sees no pause, and its group does not rebalance.

A write may never return, such as one to a file system whose server is gone. If a sink that is to stop does not end
within a minute, the role ends, and is restarted with the new file: its other sinks would otherwise wait for this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.records import Record
from streams.metrics.roles import SinkMetrics
from streams.sinks.feed import Feed
from streams.sinks.pump import Pump, Reader
from streams.sinks.sink import Sink

log = structlog.get_logger("kubeweir.streams")

_STOP_S: Final = 60.0
"""A request to a destination, and the last calls of Kafka's client, take less."""
OnAssigned = Callable[[Sequence[int]], None]
"""Called with the partitions that a sink's consumer reads from now on."""


class OpenReader(Protocol):
    """Joins a consumer group of a topic; see :class:`streams.kafka.group.GroupReader`."""

    def __call__(
        self, group: str, topic: str, on_assigned: OnAssigned | None, on_new: Callable[[], None] | None, /
    ) -> Reader: ...


@dataclass(frozen=True, slots=True)
class MadeSink:
    """A sink that is ready to run."""

    sink: Sink
    takes: Callable[[bytes], bool] = lambda _: True
    """Whether the sink wants a record. Raises ValueError if the value is not a record."""
    on_assigned: OnAssigned | None = None
    on_new: Callable[[], None] | None = None
    """If given, a new consumer group begins after the newest record, and this is called."""
    is_own: Callable[[bytes], bool] = lambda _: True
    """Return False for a record of another cluster; see :class:`streams.sinks.feed.Feed`."""


@dataclass(frozen=True, slots=True)
class SinkDefinition:
    """One sink that the file names."""

    name: str
    """Unique among the running sinks; the ``sink`` of log lines and metrics."""
    topic: str
    group: str
    """The consumer group that reads the topic for this sink."""
    content: object
    """Everything in the file that the sink is made from. A sink of equal content keeps running through a reload."""
    make: Callable[[], MadeSink]
    """Make the sink without starting anything. Raises StopServiceError if it cannot be made."""


class RunningSinks:
    """Starts, checks and stops the running sinks, which it keeps by name."""

    def __init__(
        self,
        open_reader: OpenReader,
        send_dead_letter: Callable[[str, Record, str, str, str], bool],
        metrics: SinkMetrics,
    ) -> None:
        """``send_dead_letter`` takes topic, record, reason, error and group; see
        :meth:`streams.kafka.dead_letters.DeadLetters.send`."""
        self._open_reader, self._send_dead_letter, self._metrics = open_reader, send_dead_letter, metrics
        self._running: dict[str, _RunningSink] = {}
        self._hanging: StopServiceError | None = None

    def apply(self, definitions: Iterable[SinkDefinition]) -> None:
        """Run exactly these sinks. Raises StopServiceError if one cannot be made; then nothing has changed."""
        expected = {definition.name: definition for definition in definitions}
        kept = {
            name: sink
            for name, sink in self._running.items()
            if name in expected and sink.definition.content == expected[name].content
        }
        made = _make_all([definition for name, definition in expected.items() if name not in kept])
        stopped = [sink for name, sink in self._running.items() if name not in kept]
        hanging = _stop_all(stopped)
        if hanging:
            for _, one in made:
                one.sink.close()
            text = f"the sinks {', '.join(hanging)} do not end: their destinations have not returned from a write"
            self._hanging = StopServiceError(f"{text}; restarting, to run the others", Exit.UNEXPECTED)
            self._running = kept
            return
        for sink in stopped:
            log.info("sink stopped", sink=sink.definition.name)
        self._running = {**kept, **{definition.name: self._start(definition, sink) for definition, sink in made}}

    def problem(self) -> str | None:
        """Return what keeps any of the sinks from its work, or None."""
        return "; ".join(problem for sink in self._running.values() if (problem := sink.problem())) or None

    def check(self) -> None:
        """Raise StopServiceError if a sink has ended with a permanent error, or does not end."""
        if self._hanging is not None:
            raise self._hanging
        for sink in self._running.values():
            if sink.failed is not None:
                raise sink.failed

    def stop(self) -> None:
        """Stop all sinks. Records that are not committed are read again at the next start."""
        _stop_all(self._running.values())

    def _start(self, definition: SinkDefinition, made: MadeSink) -> _RunningSink:
        stop = threading.Event()
        reader = self._open_reader(definition.group, definition.topic, made.on_assigned, made.on_new)
        feed = Feed(definition.name, made.takes, made.is_own)

        def send_dead_letter(record: Record, reason: str, error: str) -> bool:
            return self._send_dead_letter(definition.topic, record, reason, error, definition.group)

        return _RunningSink(definition, Pump(feed, made.sink, reader, send_dead_letter, self._metrics, stop), stop)


def check_definitions(definitions: Iterable[SinkDefinition]) -> None:
    """Make each sink, and close it again. Raises StopServiceError if one cannot be made, as for a missing variable."""
    for _, one in _make_all(list(definitions)):
        one.sink.close()


def _make_all(definitions: Sequence[SinkDefinition]) -> list[tuple[SinkDefinition, MadeSink]]:
    """Make all of the sinks, or none."""
    made: list[tuple[SinkDefinition, MadeSink]] = []
    try:
        for definition in definitions:
            made.append((definition, definition.make()))
    except BaseException:
        for _, one in made:
            one.sink.close()
        raise
    return made


def _stop_all(sinks: Iterable[_RunningSink]) -> list[str]:
    """Stop some sinks; return the names of those that do not end."""
    stopped, deadline = list(sinks), time.monotonic() + _STOP_S
    for sink in stopped:
        sink.begin_to_stop()
    return [sink.definition.name for sink in stopped if not sink.has_ended(max(0.0, deadline - time.monotonic()))]


class _RunningSink:
    """A sink at work on its thread."""

    def __init__(self, definition: SinkDefinition, pump: Pump, stop: threading.Event) -> None:
        self.definition = definition
        self.failed: StopServiceError | None = None
        self._pump, self._stop = pump, stop
        self._thread = threading.Thread(target=self._run, name=definition.name, daemon=True)
        self._thread.start()
        log.info("sink started", sink=definition.name, topic=definition.topic, group=definition.group)

    def problem(self) -> str | None:
        problem = self._pump.problem()
        return f"{self.definition.name}: {problem}" if problem else None

    def begin_to_stop(self) -> None:
        self._stop.set()

    def has_ended(self, wait_s: float) -> bool:
        """Return whether its thread ends within a time."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._pump.run()
        except StopServiceError as error:
            self.failed = error
        except Exception as error:
            # A bug of ours. A thread that ended silently would stop its sink unnoticed.
            log.exception("a sink ended", sink=self.definition.name)
            self.failed = StopServiceError(f"sink {self.definition.name}: {error!r}", Exit.UNEXPECTED)
