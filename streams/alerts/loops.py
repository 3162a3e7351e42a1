"""The two loops of the role ``alerts``: records to deltas (counting half), and deltas to alerts (engine half).

THEORY OF OPERATION: alerts exactly once

Records of one group are spread over the partitions of the flows, so no single reader sees them all. So there are two
halves:

1. The *counting half* reads ``<prefix>.flows.denied`` and ``<prefix>.status``, sharing the partitions with the other
   workers. Every 0.1 s it writes how much more of each group there was (a delta) to ``<prefix>.alerts.deltas``, in the
   partition of the group.
2. The *engine half* reads the deltas. All deltas of a group reach the same worker, which keeps the windows in memory,
   writes changes of alerts to ``<prefix>.alerts``, and the state that must outlive it to ``<prefix>.alerts.state``.
3. Both write their output and the offsets of their input in one Kafka transaction. A worker that is killed before the
   commit leaves nothing visible, and its successor reads the same input again; after the commit the input is done. A
   worker that was frozen and continues later is fenced: the broker refuses its commit.
4. Memory is rebuilt when partitions are assigned. The counting half reads the last minute of flows again, only to
   recognize repeats. The engine half reads the state, then the deltas of one window's length, marked as replayed.
5. When a transaction fails, or the rules change, the loop raises TransactionAbortedError: its owner makes a new
   consumer and producer, and everything starts from what is committed (step 4).

Example: 60 denied packets of shop/web, rule ``above: {threshold: 50}``. The record is in partition 3 of the flows at
offset 17. One transaction of the counting half writes ``{shop/web: {second: 60}}`` to partition 5 of the deltas and
commits offset 18. One transaction of the engine half writes the firing alert, its state in partition 5, and its offset.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec
import orjson
import structlog

from streams.alerts.alert import AlertState
from streams.alerts.counting import ParsedFlow, RecordCounter
from streams.alerts.deduplicate import Deduplicator
from streams.alerts.deltas import DeltaError, decode, encode
from streams.alerts.engine import Engine
from streams.alerts.model import AlertRule
from streams.alerts.policy_changes import PolicyChange
from streams.kafka.connection import ReadError
from streams.kafka.exactly_once import TopicAndPartition, TransactionAbortedError, Write
from streams.kafka.records import Record
from streams.timestamps import rfc3339

log = structlog.get_logger("kubeweir.streams")

_MAX_RECORDS_PER_STEP: Final = 5000
_POLL_S: Final = 0.1
_COUNT_INTERVAL_S: Final = 0.1
"""Between two transactions of the counting half, so that each carries some records."""
_IDLE_COMMIT_S: Final = 2.0
"""Between two commits of the engine half that have offsets only."""
_REPORT_INTERVAL_S: Final = 10.0
"""Between two status records about evicted groups."""
_DEDUPLICATION_MS: Final = 60_000
"""A repeat follows its original within this time: the successor of a killed worker starts at once."""
_CHANGE_KEY: Final = b"change/"
"""Keys of policy changes in the topic of states begin like this."""


class Transactions(Protocol):
    """See :class:`streams.kafka.exactly_once.ExactlyOnce`."""

    def take(self, most: int, wait_s: float) -> list[Record]: ...

    def is_replayed(self, record: Record) -> bool: ...

    def commit(self, writes: Sequence[Write]) -> None: ...


class Rules(Protocol):
    """The rules in force. ``current`` is replaced by another object when they change."""

    @property
    def current(self) -> Sequence[AlertRule]: ...


class CountLoop:
    """The counting half: denied flows and losses in, deltas out."""

    def __init__(
        self,
        rules: Rules,
        denied: str,
        deltas: tuple[str, int],
        send_dead_letter: Callable[[Record, str, str], bool],
        count: Callable[[str, int], None],
    ) -> None:
        """``denied`` is the topic of denied flows; records of any other topic are status records. ``deltas`` is a topic
        and its number of partitions. ``count`` is called with records, repeats, deltas or bad_records, and a number."""
        self._rules, self._denied, self._deltas = rules, denied, deltas
        self._send_dead_letter, self._count = send_dead_letter, count
        self._deduplicators: dict[int, Deduplicator] = {}
        self._current: Sequence[AlertRule] = ()
        self._counter = RecordCounter(())

    @staticmethod
    def replay_from_ms(topic: str) -> int:
        """Return the time from which a new owner of a partition reads its records again."""
        del topic
        return int(time.time() * 1000) - _DEDUPLICATION_MS

    def on_assigned(self, partitions: Sequence[TopicAndPartition]) -> None:
        """Start reading these partitions, and no others."""
        self._deduplicators = {partition: Deduplicator() for topic, partition in partitions if topic == self._denied}

    def step(self, transactions: Transactions) -> None:
        """Read some records and commit their deltas. Raises TransactionAbortedError, StopServiceError."""
        started = time.monotonic()
        records = transactions.take(_MAX_RECORDS_PER_STEP, _POLL_S)
        if not records:
            return
        if self._rules.current is not self._current:
            self._current = self._rules.current
            self._counter = RecordCounter(self._current)
        new = [record for record in records if self._is_new(transactions, record)]
        for record in new:
            self._take(record)
        deltas = self._counter.drain()
        topic, partitions = self._deltas
        if new:
            transactions.commit([Write(topic, None, value, number) for number, value in encode(deltas, partitions)])
        self._count("records", len(new))
        self._count("deltas", len(deltas))
        time.sleep(max(0.0, _COUNT_INTERVAL_S - (time.monotonic() - started)))

    def _is_new(self, transactions: Transactions, record: Record) -> bool:
        """Return whether the record must be counted. A replayed one is only shown to the deduplicator."""
        if not transactions.is_replayed(record):
            return True
        if record.topic == self._denied:
            try:
                self._is_repeat(record, self._counter.read_flow(record.value))
            except ValueError:
                log.debug("a bad record was reported when it was first read", offset=record.offset)
        return False

    def _take(self, record: Record) -> None:
        try:
            if record.topic != self._denied:
                self._counter.count_status(record.value)
                return
            flow = self._counter.read_flow(record.value)
            if self._is_repeat(record, flow):
                self._count("repeats", 1)
            else:
                self._counter.count_flow(flow)
        except ValueError as error:
            self._count("bad_records", 1)
            log.warning("dead letter", reason="no_record", topic=record.topic, offset=record.offset, error=str(error))
            self._send_dead_letter(record, "no_record", str(error))

    def _is_repeat(self, record: Record, flow: ParsedFlow) -> bool:
        return self._deduplicators.setdefault(record.partition, Deduplicator()).is_repeat(flow)


class EngineLoop:
    """The engine half: deltas and changes of policies in, alerts and their state out."""

    def __init__(
        self,
        rules: Rules,
        names: tuple[str, str, str],
        partitions: int,
        worker: str,
        make_engine: Callable[[Sequence[AlertRule]], Engine],
        read_state: Callable[[Sequence[int]], Iterable[Record]],
        take_evicted: Callable[[], Counter[str]],
        bad_delta: Callable[[Record, str], None],
    ) -> None:
        """``names`` are the topics of alerts, state and status; ``partitions`` is the number of partitions that state
        and deltas have. ``take_evicted`` returns, by rule, the groups evicted or refused since its last call.
        ``bad_delta`` is called with a record that is not a delta, and the reason."""
        self._rules, self._partitions, self._worker = rules, partitions, worker
        self._alerts, self._state, self._status = names
        self._make_engine, self._read_state = make_engine, read_state
        self._take_evicted, self._bad_delta = take_evicted, bad_delta
        self._assigned: list[int] = []
        self._lock = threading.Lock()
        self._new_changes: list[PolicyChange] = []
        self._stored_changes: dict[str, PolicyChange] = {}
        self._uncommitted = False
        self._committed_at = self._next_report = 0.0
        self._current = rules.current
        self.engine = make_engine(self._current)

    def replay_from_ms(self, topic: str) -> int:
        """Return the time from which a new owner of a partition reads its deltas again: one window back."""
        del topic
        return int((time.time() - self.engine.history_s) * 1000)

    def add_policy_change(self, change: PolicyChange) -> None:
        """Hand a change of a policy to the next step. May be called on any thread."""
        with self._lock:
            self._new_changes.append(change)

    def on_assigned(self, partitions: Sequence[TopicAndPartition]) -> None:
        """Start a new engine for these partitions from their state. Raises TransactionAbortedError."""
        self._current = self._rules.current
        self.engine = self._make_engine(self._current)
        self._assigned = sorted(partition for _, partition in partitions)
        self._stored_changes = {}
        now = time.time()
        try:
            latest = {record.key: record.value for record in self._read_state(self._assigned)}
        except ReadError as error:
            raise TransactionAbortedError(str(error)) from error
        for key, value in latest.items():
            if value:
                self._load(key, value, now)
        if self._assigned:
            log.info("alerts are kept here", partitions=self._assigned, firing=sum(self.engine.firing().values()))

    def step(self, transactions: Transactions) -> None:
        """Process some deltas and the time that has passed. Raises TransactionAbortedError, StopServiceError."""
        records = transactions.take(_MAX_RECORDS_PER_STEP, _POLL_S)
        if not self._assigned:
            return
        if self._rules.current is not self._current:
            raise TransactionAbortedError("the rules have changed")
        now = time.time()
        for record in records:
            try:
                self.engine.take(decode(record.value), now, replayed=transactions.is_replayed(record))
            except DeltaError as error:
                self._bad_delta(record, str(error))
        self._uncommitted = self._uncommitted or bool(records)
        writes = self._process_changes(now)
        self.engine.tick(now)
        writes += self._engine_output() + self._report_evicted(now)
        idle = time.monotonic() - self._committed_at > _IDLE_COMMIT_S
        if writes or (self._uncommitted and idle):
            transactions.commit(writes)
            self._uncommitted, self._committed_at = False, time.monotonic()

    def _load(self, key: bytes, value: bytes, now: float) -> None:
        try:
            if key.startswith(_CHANGE_KEY):
                change = msgspec.json.decode(value, type=PolicyChange)
                self._stored_changes[change.policy] = change
                self.engine.policy_changed(change, now)
            else:
                self.engine.load(key.decode().rpartition("/")[2], msgspec.json.decode(value, type=AlertState), now)
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("a record of the alert state cannot be decoded and is ignored", key=key, error=str(error))

    def _process_changes(self, now: float) -> list[Write]:
        """Process the new changes. Each is stored in every partition for as long as a record may depend on it."""
        with self._lock:
            changes, self._new_changes = self._new_changes, []
        writes = []
        for change in changes:
            self.engine.policy_changed(change, now)
            self._stored_changes[change.policy] = change
            writes += self._write_everywhere(change.policy, msgspec.json.encode(change))
        too_old = now - self.engine.history_s
        for name in [name for name, change in self._stored_changes.items() if change.at < too_old]:
            del self._stored_changes[name]
            writes += self._write_everywhere(name, None)
        return writes

    def _write_everywhere(self, policy: str, value: bytes | None) -> list[Write]:
        key = _CHANGE_KEY + policy.encode()
        return [Write(self._state, key, value, partition) for partition in self._assigned]

    def _engine_output(self) -> list[Write]:
        out = self.engine.drain()
        writes = []
        for record in out.alerts:
            log.info("alert", status=record["status"], rule=record["rule"], labels=record["labels"])
            key = f"{record['rule']}/{record['fingerprint']}".encode()
            writes.append(Write(self._alerts, key, orjson.dumps(record)))
        for rule, name, state in out.states:
            value = None if state is None else msgspec.json.encode(state)
            partition = int(name, 16) % self._partitions
            writes.append(Write(self._state, f"{rule}/{name}".encode(), value, partition))
        return writes

    def _report_evicted(self, now: float) -> list[Write]:
        """Report evicted groups as a loss: an alert may be missing because of them."""
        if time.monotonic() < self._next_report:
            return []
        self._next_report = time.monotonic() + _REPORT_INTERVAL_S
        writes = []
        for rule, groups in self._take_evicted().items():
            log.error(
                "groups of an alert rule were evicted: it has more groups than WEIR_ALERT_GROUPS allows; raise the "
                "setting, or group by fewer fields",
                rule=rule,
                groups=groups,
            )
            status = {"schema": 1, "timestamp": rfc3339(now), "worker": self._worker, "type": "alerts_dropped",
                      "reason": rule, "groups": groups}  # fmt: skip
            writes.append(Write(self._status, self._worker.encode(), orjson.dumps(status)))
        return writes
