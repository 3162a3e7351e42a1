"""The role `journal`: puts the source, what it observes, and the writer of the journal together.

Every worker observes the cluster; one of them writes (:mod:`streams.journal.writer`).
"""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial

from enrich.index.cluster import Cluster
from enrich.model import Pod, Workload
from enrich.runtime.watching import export_watch, watch_problem
from enrich.sources.factory import start_source
from streams.journal.observed import OBJECT_KINDS, ObservedStates
from streams.journal.profiles import Profiles
from streams.journal.writer import SORTS, JournalWriter, Observation
from streams.journal.written import Journal, read_states
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.exactly_once import ExactlyOnce
from streams.kafka.followed import WatchedThread
from streams.kafka.lag import LagMonitor
from streams.kafka.offsets import newest_time_ms
from streams.kafka.open_transactions import Suspect
from streams.kafka.reading import read_committed
from streams.kafka.records import Record
from streams.metrics.journal import JournalMetrics
from streams.metrics.progress import CALLS_OF_JOURNAL
from streams.roles.loop_thread import LoopThread
from streams.roles.needs import journal_needs
from streams.roles.running_role import RunningRole, run_role
from streams.settings import Settings

_KINDS = (*OBJECT_KINDS, Pod, Workload)
_UNNAMED = "-"
"""The cluster of manifests without a namespace kube-system, which has no id."""


def run_journal(settings: Settings, stop: threading.Event) -> int:
    """Run until ``stop``; return the exit code. Raises StopServiceError."""
    return run_role("journal", settings, stop, CALLS_OF_JOURNAL, _work)


def _work(role: RunningRole) -> None:
    metrics = JournalMetrics(role.registry, SORTS)
    dead = DeadLetters(role.settings.connection(), role.settings.topics.dead.name, role.stop)
    role.find_cluster()
    settings = role.settings
    role.needs = journal_needs(settings)
    if not role.prepare_topics(settings.topics.journal, settings.topics.dead):
        return
    cluster = Cluster(kinds=_KINDS)
    profiles = Profiles(cluster, settings.profile_labels_left_out, metrics.refused.inc)
    states = ObservedStates(profiles, metrics.refused.inc)
    source = start_source(settings.source, cluster, states)
    role.stack.callback(source.stop)
    export_watch(role.registry, source, role.progress.last_success)
    observation = Observation(states, profiles, cluster.synced.is_set, source.synced_until_ns)
    writer = _writer(settings, observation, metrics, dead)
    thread = _thread(settings, writer, metrics, role.monitor)
    thread.start()
    role.stack.callback(thread.stop)
    role.begin(
        partial(watch_problem, cluster, source),
        role.monitor.problem,
        thread.problem,
        partial(_behind, writer, settings.stall),
    )
    metrics.watch(lambda: (_behind_s(writer), writer.states))
    while not role.stop.wait(0.1):
        thread.check()


def _writer(settings: Settings, observation: Observation, metrics: JournalMetrics, dead: DeadLetters) -> JournalWriter:
    connection, topic = settings.connection(), settings.topics.journal.name

    def read_journal() -> Journal:
        def read(since_ms: int) -> Iterator[Record]:
            for record in read_committed(connection, topic, [0], since_ms):
                writer.records_read += 1
                yield record

        return read_states(settings.cluster or _UNNAMED, newest_time_ms(connection, topic, 0), read, metrics.bad.inc)

    def on_bad(record: Record, error: str) -> None:
        metrics.bad.inc()
        dead.send(topic, record, "bad_entry", error)

    writer = JournalWriter(topic, observation, read_journal, on_bad, lambda sort: metrics.entries.labels(sort).inc())
    return writer


def _thread(settings: Settings, writer: JournalWriter, metrics: JournalMetrics, monitor: LagMonitor) -> LoopThread:
    topic, group = settings.topics.journal.name, settings.group("journal")

    def transactions(patience: int) -> ExactlyOnce:
        name = f"{group}.{socket.gethostname()}.{uuid.uuid4().hex[:8]}"
        made = ExactlyOnce(
            settings.connection(), group, [topic], name, writer.replay_from_ms, writer.on_assigned, monitor, patience
        )  # fmt: skip
        made.needs = (topic, settings.group("journal."))
        return made

    thread = LoopThread("journal", transactions, writer.step, metrics, role="journal", finish=writer.finish)
    needs = (group, topic, settings.group("journal."))
    monitor.watch(WatchedThread("the loop journal", lambda: thread.turns + writer.records_read, needs))
    monitor.suspect(Suspect(lambda: thread.problem() is not None, group, [topic], [topic]))
    return thread


def _behind_s(writer: JournalWriter) -> float | None:
    """Return how many seconds ago the journal was complete; None if another worker writes it."""
    complete_ns = writer.complete_ns
    return None if complete_ns is None else max(0.0, (time.time_ns() - complete_ns) / 1e9)


def _behind(writer: JournalWriter, stall_s: float) -> str | None:
    """Return that the journal stands still, or None."""
    behind_s = _behind_s(writer)
    if behind_s is None or behind_s < stall_s:
        return None
    return f"the journal is behind: everything until {behind_s:.0f} s ago is in it"
