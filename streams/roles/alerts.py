"""The role `alerts`, put together: the rules in force, the two loops, the watch of policies, and the far ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from enrich.runtime.health import HealthServer
from enrich.runtime.process import Exit, StopServiceError
from streams.alerts.engine import Engine
from streams.alerts.loops import CountLoop, EngineLoop
from streams.alerts.model import AlertRule, Alerts
from streams.alerts.outputs import sink_definitions
from streams.alerts.policy_watch import PolicyWatch
from streams.alerts.read import in_force, read
from streams.config.hot_reload import HotReloadedFile
from streams.kafka.connection import ReadError
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError
from streams.kafka.group import GroupReader
from streams.kafka.reading import read_committed
from streams.kafka.records import Record
from streams.kafka.topics import partitions_of, prepare_topics
from streams.metrics.roles import AlertMetrics, SinkMetrics
from streams.settings import Settings
from streams.sinks.registry import SinkRegistry

log = structlog.get_logger("kubeweir.streams")

_AGAIN_S: Final = 0.5


class _Rules:
    """The rules in force, exchanged in one assignment."""

    def __init__(self) -> None:
        self.current: Sequence[AlertRule] = ()


class _Half:
    """One loop at work on its thread; it begins anew where a transaction failed."""

    def __init__(
        self, name: str, make: Callable[[], ExactlyOnce], step: Callable[[ExactlyOnce], None], metrics: AlertMetrics
    ) -> None:
        self.failed: StopServiceError | None = None
        self._name, self._make, self._step, self._metrics = name, make, step, metrics
        self._problem: str | None = "Kafka has not been reached yet"
        self._bus: ExactlyOnce | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"alerts-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is not committed comes again."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def problem(self) -> str | None:
        """What keeps it from its work."""
        told = self._problem or (self._bus.problem if self._bus else None)
        return f"{self._name}: {told}" if told else None

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._work()
        except StopServiceError as error:
            self.failed = error
        except Exception as error:
            log.exception("alerts ended", half=self._name)
            self.failed = StopServiceError(f"alerts, {self._name}: {error!r}", Exit.UNEXPECTED)

    def _work(self) -> None:
        """Until the stop, or until it is to begin anew."""
        bus = self._bus = self._make()
        try:
            if bus.start(self._stop):
                self._problem = None
            while not self._stop.is_set():
                self._step(bus)
                lag = bus.lag()
                if lag is not None:
                    self._metrics.lag.labels(self._name).set(lag)
        except TransactionAbortedError as error:
            self._metrics.restarts.labels(self._name).inc()
            self._problem = str(error)
            log.warning("alerts begin anew, with what was committed", half=self._name, error=str(error))
            self._stop.wait(_AGAIN_S)
        finally:
            bus.close()


def run_alerts(settings: Settings, stop: threading.Event) -> int:
    """Run until ``stop``; the exit code. Raises StopServiceError."""
    registry = CollectorRegistry()
    problems: list[Callable[[], str | None]] = [lambda: "Kafka has not been reached yet"]
    checks = {"alerts": lambda: next((told for check in problems if (told := check())), None)}
    health = HealthServer(settings.metrics, registry, checks)
    log.info("starting", role="alerts", metrics_port=health.port, kafka=settings.kafka, prefix=settings.prefix)
    with contextlib.ExitStack() as stack:
        stack.callback(health.close)
        _work(settings, stop, registry, problems, stack)
    log.info("stopped", role="alerts")
    return Exit.OK


def _work(
    settings: Settings,
    stop: threading.Event,
    registry: CollectorRegistry,
    problems: list[Callable[[], str | None]],
    stack: contextlib.ExitStack,
) -> None:
    metrics = AlertMetrics(registry)
    rules = _Rules()
    topics = settings.topics
    dead = DeadLetters(settings.connection(), topics.dead.name, stop)
    sinks = SinkRegistry(partial(GroupReader, settings.connection()), dead.send, SinkMetrics(registry))

    def take_over(alerts: Alerts) -> Alerts:
        found = in_force(alerts)
        sinks.apply(sink_definitions(found, settings))
        rules.current = found.rules
        return found

    live = _live(settings, take_over)
    # Told before the wait for Kafka: a wrong file is no reason to wait.
    first = live.read() if live else Alerts(version=1)
    wanted = (topics.denied, topics.status, topics.dead, topics.alerts, topics.deltas, topics.alert_state)
    if not prepare_topics(settings.connection(), wanted, settings.replication, stop):
        return
    rules.current = in_force(first).rules
    counting, evaluating, engine_loop = _halves(settings, rules, metrics, dead, stop)
    watch = PolicyWatch(settings.source, engine_loop.add_policy_change)
    stack.callback(watch.stop)
    stack.callback(sinks.stop)
    if live:
        live.start()
        stack.callback(live.stop)
    else:
        take_over(first)
    for half in (counting, evaluating):
        half.start()
        stack.callback(half.stop)
    problems[:] = [
        *([live.problem] if live else []),
        watch.problem,
        counting.problem,
        evaluating.problem,
        sinks.problem,
    ]
    metrics.watch(lambda: (engine_loop.engine.groups(), engine_loop.engine.firing()))
    while not stop.wait(0.1):
        sinks.check()
        for half in (counting, evaluating):
            if half.failed is not None:
                raise half.failed


def _live(settings: Settings, make: Callable[[Alerts], Alerts]) -> HotReloadedFile[Alerts, Alerts] | None:
    if settings.alerts in ("", "-"):
        return None
    return HotReloadedFile("alerts", "WEIR_ALERTS", Path(settings.alerts), read, make)


def _halves(
    settings: Settings, rules: _Rules, metrics: AlertMetrics, dead: DeadLetters, stop: threading.Event
) -> tuple[_Half, _Half, EngineLoop]:
    topics, connection, worker = settings.topics, settings.connection(), socket.gethostname()
    partitions = _partitions(settings, stop)
    evicted = Tally[str]()

    def count_event(rule: str, what: str, number: int) -> None:
        metrics.events.labels(rule, what).inc(number)
        if what in ("evicted_groups", "refused_groups"):
            evicted[rule] += number

    def take_evicted() -> Tally[str]:
        found = evicted.copy()
        evicted.clear()
        return found

    def bad_delta(record: Record, error: str) -> None:
        metrics.counted.labels("bad_deltas").inc()
        dead.send(topics.deltas.name, record, "no_deltas", error)

    counting = CountLoop(
        rules,
        topics.denied.name,
        (topics.deltas.name, partitions),
        lambda record, reason, error: dead.send(record.topic, record, reason, error),
        lambda what, number: metrics.counted.labels(what).inc(number),
    )
    engine_loop = EngineLoop(
        rules,
        (topics.alerts.name, topics.alert_state.name, topics.status.name),
        partitions,
        worker,
        lambda found: Engine(found, settings.alert_groups, count_event),
        partial(read_committed, connection, topics.alert_state.name),
        take_evicted,
        bad_delta,
    )

    def bus(name: str, read_topics: Sequence[str], loop: CountLoop | EngineLoop) -> ExactlyOnce:
        writer = f"{settings.prefix}.alerts.{name}.{worker}.{uuid.uuid4().hex[:8]}"
        group = f"{settings.prefix}.alerts.{name}"
        return ExactlyOnce(connection, group, read_topics, writer, loop.replay_from_ms, loop.on_assigned)

    sources = (topics.denied.name, topics.status.name)
    return (
        _Half("count", lambda: bus("count", sources, counting), counting.step, metrics),
        _Half("engine", lambda: bus("engine", (topics.deltas.name,), engine_loop), engine_loop.step, metrics),
        engine_loop,
    )


def _partitions(settings: Settings, stop: threading.Event) -> int:
    """Of deltas and state, as they are. Raises StopServiceError where they differ."""
    deltas, state = settings.topics.deltas.name, settings.topics.alert_state.name
    found = {deltas: 0}
    # A broker may not know yet of a topic that was made just now.
    while not all(found.values()) and not stop.wait(0.1):
        with contextlib.suppress(ReadError):
            found = partitions_of(settings.connection(), [deltas, state])
    if stop.is_set():
        return 1
    if found[deltas] != found[state]:
        raise StopServiceError(
            f"{deltas} has {found[deltas]} partitions and {state} has {found[state]}, but the numbers must be equal: "
            "delete both topics, and the worker makes them again",
            Exit.USAGE,
        )
    return found[deltas]
