"""The role `alerts`: puts the rules in force, the two loops, the watch of policy changes and the outputs together.

The loops share nothing but Kafka, so that each can be scaled and restarted on its own. Both are exactly-once
(:mod:`streams.kafka.exactly_once`):

- *count* reads denied flows and losses, and writes to the topic of deltas how many of them each group of a rule got.
- *engine* reads deltas, keeps the windows of the groups, and writes alerts and the state to resume from.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.watching import export_watch
from streams.alerts.count_loop import CountLoop
from streams.alerts.deltas import OwnGroups
from streams.alerts.engine import Engine
from streams.alerts.engine_loop import EngineLoop
from streams.alerts.model import AlertRule, Alerts
from streams.alerts.outputs import sink_definitions
from streams.alerts.policy_watch import PolicyWatch
from streams.alerts.read import in_force, read
from streams.config.hot_reload import HotReloadedFile
from streams.kafka.connection import ReadError
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.exactly_once import ExactlyOnce
from streams.kafka.followed import WatchedThread
from streams.kafka.group import GroupReader
from streams.kafka.lag import LagMonitor
from streams.kafka.open_transactions import Suspect
from streams.kafka.reading import read_committed
from streams.kafka.records import Record
from streams.kafka.topics import partitions_of
from streams.metrics.progress import CALLS_OF_ALERTS
from streams.metrics.roles import AlertMetrics, SinkMetrics
from streams.roles.loop_thread import LoopThread
from streams.roles.needs import alerts_needs
from streams.roles.running_role import RunningRole, run_role
from streams.settings import Settings
from streams.sinks.running_sinks import RunningSinks, check_definitions


class _Rules:
    """The rules in force. A reload replaces them in one assignment."""

    def __init__(self) -> None:
        self.current: Sequence[AlertRule] = ()


def run_alerts(settings: Settings, stop: threading.Event) -> int:
    """Run until ``stop``; return the exit code. Raises StopServiceError."""
    return run_role("alerts", settings, stop, CALLS_OF_ALERTS, _work)


def _work(role: RunningRole) -> None:
    metrics = AlertMetrics(role.registry)
    rules = _Rules()
    settings, stop = role.settings, role.stop
    topics = settings.topics
    dead = DeadLetters(settings.connection(), topics.dead.name, stop)
    open_reader = partial(GroupReader, settings.connection(), monitor=role.monitor, patience_s=settings.stall)
    sinks = RunningSinks(open_reader, dead.send, SinkMetrics(role.registry, role.progress.note))

    def apply(alerts: Alerts) -> Alerts:
        effective = in_force(alerts)
        definitions = sink_definitions(effective, role.settings)
        sinks.apply(definitions)
        role.needs = alerts_needs(role.settings, [(one.topic, one.group) for one in definitions])
        rules.current = effective.rules
        return effective

    file = _alerts_file(settings, apply)
    # A mistake in the file, in WEIR_ALERTMANAGER, or in what they name is reported at once, not only when Kafka can be
    # reached.
    first = file.read() if file else Alerts(version=1)
    check_definitions(sink_definitions(in_force(first), settings))
    role.find_cluster()
    if not role.prepare_topics(
        topics.denied, topics.status, topics.dead, topics.alerts, topics.deltas, topics.alert_state
    ):
        return
    rules.current = in_force(first).rules
    count_thread, engine_thread, engine_loop = _loop_threads(role.settings, rules, metrics, dead, stop, role.monitor)
    watch = PolicyWatch(settings.source, engine_loop.add_policy_change)
    role.stack.callback(watch.stop)
    export_watch(role.registry, watch.source, role.progress.last_success)
    role.stack.callback(sinks.stop)
    if file:
        file.start()
        role.stack.callback(file.stop)
    else:
        apply(first)
    threads = (count_thread, engine_thread)
    for thread in threads:
        thread.start()
        role.stack.callback(thread.stop)
    role.begin(
        *([file.problem] if file else []),
        watch.problem,
        count_thread.problem,
        engine_thread.problem,
        sinks.problem,
        role.monitor.problem,
    )
    metrics.watch(lambda: (engine_loop.engine.groups(), engine_loop.engine.firing()))
    _watch_over(threads, sinks, stop)


def _watch_over(threads: Sequence[LoopThread], sinks: RunningSinks, stop: threading.Event) -> None:
    """Wait for the stop. Raises StopServiceError if a loop or a sink ends before."""
    while not stop.wait(0.1):
        sinks.check()
        for thread in threads:
            thread.check()


def _alerts_file(settings: Settings, apply: Callable[[Alerts], Alerts]) -> HotReloadedFile[Alerts, Alerts] | None:
    if settings.alerts in ("", "-"):
        return None
    return HotReloadedFile("alerts", "WEIR_ALERTS", Path(settings.alerts), read, apply)


def _loop_threads(
    settings: Settings,
    rules: _Rules,
    metrics: AlertMetrics,
    dead: DeadLetters,
    stop: threading.Event,
    monitor: LagMonitor,
) -> tuple[LoopThread, LoopThread, EngineLoop]:
    topics, connection, worker = settings.topics, settings.connection(), socket.gethostname()
    partitions = _partitions(settings, stop)
    count_loop = CountLoop(
        rules,
        topics.denied.name,
        (topics.deltas.name, partitions),
        lambda record, reason, error: dead.send(record.topic, record, reason, error),
        lambda what, number: metrics.counted.labels(what).inc(number),
        settings.cluster,
    )
    engine_loop = _engine_loop(settings, rules, partitions, metrics, dead)

    def loop_thread(
        name: str,
        read_topics: Sequence[str],
        written: Sequence[str],
        loop: CountLoop | EngineLoop,
        read_back: Sequence[str] = (),
    ) -> LoopThread:
        group, needs = settings.group(f"alerts.{name}"), (*written, settings.group("alerts."))

        def transactions(patience: int) -> ExactlyOnce:
            writer = f"{group}.{worker}.{uuid.uuid4().hex[:8]}"
            back, number = loop.replay_from_ms, loop.replay_records
            made = ExactlyOnce(connection, group, read_topics, writer, back, loop.on_assigned, monitor, patience)
            made.needs, made.replay_records = needs, number
            return made

        thread = LoopThread(name, transactions, loop.step, metrics)
        names, only_writes = (group, *read_topics, *needs), set(written) - {*read_topics, *read_back}
        monitor.watch(WatchedThread(f"the loop {name}", lambda: thread.turns + loop.records_read, names, only_writes))
        monitor.suspect(Suspect(lambda: thread.problem() is not None, group, read_back, read_topics))
        return thread

    sources, deltas = (topics.denied.name, topics.status.name), (topics.deltas.name,)
    written = (topics.alerts.name, topics.alert_state.name, topics.status.name)
    return (
        loop_thread("count", sources, deltas, count_loop),
        loop_thread("engine", deltas, written, engine_loop, [topics.alert_state.name]),
        engine_loop,
    )


def _engine_loop(
    settings: Settings, rules: _Rules, partitions: int, metrics: AlertMetrics, dead: DeadLetters
) -> EngineLoop:
    topics = settings.topics
    evicted = Tally[str]()

    def count_event(rule: str, what: str, number: int) -> None:
        metrics.events.labels(rule, what).inc(number)
        if what in ("evicted_groups", "refused_groups"):
            evicted[rule] += number

    def take_evicted() -> Tally[str]:
        found = evicted.copy()
        evicted.clear()
        return found

    def on_bad_deltas(record: Record, error: str) -> None:
        metrics.counted.labels("bad_deltas").inc()
        dead.send(topics.deltas.name, record, "no_deltas", error)

    loop = EngineLoop(
        rules,
        (topics.alerts.name, topics.alert_state.name, topics.status.name),
        partitions,
        socket.gethostname(),
        lambda found: Engine(
            found,
            settings.alert_groups,
            count_event,
            max_firing=settings.alert_firing,
            learn_s=settings.alert_learn,
        ),
        partial(read_committed, settings.connection(), topics.alert_state.name),
        take_evicted,
        on_bad_deltas,
    )
    loop.own = OwnGroups(settings.cluster, metrics.counted.labels("foreign").inc)
    return loop


def _partitions(settings: Settings, stop: threading.Event) -> int:
    """Return how many partitions the topics of deltas and of state have. Raises StopServiceError if they differ."""
    deltas, state = settings.topics.deltas.name, settings.topics.alert_state.name
    found = {deltas: 0}
    # A broker may not know a topic yet that was created just now.
    while not all(found.values()) and not stop.wait(0.1):
        with contextlib.suppress(ReadError):
            found = partitions_of(settings.connection(), [deltas, state])
    if stop.is_set():
        return 1
    if found[deltas] != found[state]:
        raise StopServiceError(
            f"{deltas} has {found[deltas]} partitions and {state} has {found[state]}, but the numbers must be equal: "
            "delete both topics and restart",
            Exit.USAGE,
        )
    return found[deltas]
