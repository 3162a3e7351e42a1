"""The engine loop: deltas and changes of policies in, alerts and their state out.

See :mod:`streams.alerts.loops` for how the loops work.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import orjson
import structlog

from enrich.wire.bounds import Seconds
from streams.alerts.alert import AlertState
from streams.alerts.deltas import DeltaError, OwnGroups, decode, fingerprint
from streams.alerts.engine import Engine
from streams.alerts.loops import MAX_RECORDS_PER_STEP, POLL_S, Rules, Transactions
from streams.alerts.model import AlertRule
from streams.alerts.policy_changes import PolicyChange
from streams.alerts.steady_clock import SteadyClock
from streams.kafka.connection import ReadError
from streams.kafka.exactly_once import TransactionAbortedError, Write
from streams.kafka.records import Record, TopicAndPartition
from streams.timestamps import rfc3339

log = structlog.get_logger("kubeweir.streams")

_IDLE_COMMIT_S: Final = 2.0
"""Between two commits that have offsets only."""
_REPORT_INTERVAL_S: Final = 10.0
"""Between two status records about evicted groups."""
_MAX_CHANGES: Final = 10_000
"""Changes of policies that wait for the next step, and policies whose last change is stored: the latest are kept."""
_CHANGE_KEY: Final = b"change/"
"""Keys of policy changes in the topic of states begin like this; the cluster follows."""
_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")
_LEARN_KEY: Final = b"learn/"
"""Keys of :class:`Learning` begin likewise; each partition has one for each rule."""


class Learning(msgspec.Struct, frozen=True):
    """When a rule about new groups began to learn which groups there are."""

    rule: str
    version: str
    since: Seconds


class EngineLoop:
    """Evaluates the rules for the groups of the assigned partitions."""

    replay_records = 0

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
        self.own = OwnGroups("", lambda _: None)
        """Says which groups are this cluster's. Replaced before the first step if other clusters may share the
        topics."""
        self.records_read = 0
        """How many records of the state :meth:`on_assigned` has read: that takes long, and is no call that hangs."""
        self._clock = SteadyClock()
        self._assigned: list[int] = []
        self._first_writes: list[Write] = []
        """To be committed with the next transaction."""
        self._lock = threading.Lock()
        self._new_changes: deque[PolicyChange] = deque()
        self._dropped_changes = 0
        self._stored_changes: dict[str, PolicyChange] = {}
        self._uncommitted = False
        self._committed_at = self._next_report = 0.0
        self._current = rules.current
        self.engine = make_engine(self._current)

    def replay_from_ms(self, topic: str) -> int:
        """Return the time from which a new owner of a partition reads its deltas again: one window back."""
        del topic
        return int((self._clock() - self.engine.history_s) * 1000)

    def add_policy_change(self, change: PolicyChange) -> None:
        """Hand a change of a policy to the next step. May be called on any thread."""
        with self._lock:
            self._new_changes.append(change)
            # A worker without partitions takes none, but may get partitions in a moment: then it needs the latest.
            if len(self._new_changes) > _MAX_CHANGES:
                self._new_changes.popleft()
                self._dropped_changes += 1

    def on_assigned(self, partitions: Sequence[TopicAndPartition]) -> None:
        """Start a new engine for these partitions from their state. Raises TransactionAbortedError."""
        self._current = self._rules.current
        self.engine = self._make_engine(self._current)
        self._assigned = sorted(partition for _, partition in partitions)
        self.engine.own(lambda name: self._home(name) in self._assigned, self._home)
        self._stored_changes, self._first_writes = {}, []
        now = self._clock()
        try:
            latest: dict[tuple[int, bytes], bytes] = {}
            for record in self._read_state(self._assigned):
                latest[record.partition, record.key] = record.value
                self.records_read += 1
        except ReadError as error:
            raise TransactionAbortedError(str(error)) from error
        learning: dict[tuple[int, str, str], float] = {}
        for (partition, key), value in latest.items():
            if value and key.startswith(_LEARN_KEY):
                # The names of rules have no slash, and clusters may share the topic.
                if key.rpartition(b"/")[0] + b"/" == self._key(_LEARN_KEY):
                    _load_learning(partition, value, learning)
            elif value:
                self._load(key, value, now)
        self._learn(learning, now)
        if self._assigned:
            log.info(
                "alert partitions assigned",
                partitions=self._assigned,
                firing=sum(self.engine.firing().values()),
            )

    def _home(self, name: str) -> int:
        """Return the partition of the state of a group, given its fingerprint."""
        return int(name, 16) % self._partitions

    def step(self, transactions: Transactions) -> None:
        """Process some deltas and the time that has passed. Raises TransactionAbortedError, StopServiceError."""
        records = transactions.take(MAX_RECORDS_PER_STEP, POLL_S)
        if not self._assigned:
            return
        if self._rules.current is not self._current:
            raise TransactionAbortedError("the rules have changed")
        now = self._clock()
        for record in self.own.of_records(records):
            try:
                self.engine.take(self.own.pick(decode(record.value)), now, replayed=transactions.is_replayed(record))
            except DeltaError as error:
                self._bad_delta(record, record.unread or str(error))
        self._uncommitted = self._uncommitted or bool(records)
        writes = self._first_writes + self._process_changes(now)
        self._first_writes = []
        self.engine.tick(now)
        writes += self._engine_output() + self._report_evicted(now)
        idle = time.monotonic() - self._committed_at > _IDLE_COMMIT_S
        if writes or (self._uncommitted and idle):
            transactions.commit(writes)
            self._uncommitted, self._committed_at = False, time.monotonic()

    def _load(self, key: bytes, value: bytes, now: float) -> None:
        try:
            if key.startswith(_CHANGE_KEY):
                if not key.startswith(self._change_key()):
                    return
                change = msgspec.json.decode(value, type=PolicyChange)
                self._stored_changes[change.policy] = change
                self.engine.policy_changed(change, now)
                return
            state = msgspec.json.decode(value, type=AlertState)
            name = _fingerprint_in(key, state)
            if self.own.has(state.group):
                self.engine.load(name, state, now)
        except (ValueError, RecursionError) as error:
            log.warning("a record of the alert state cannot be decoded and is ignored", key=key, error=str(error))

    def _change_key(self) -> bytes:
        return self._key(_CHANGE_KEY)

    def _key(self, kind: bytes) -> bytes:
        return kind + (f"{self.own.cluster}/".encode() if self.own.cluster else b"")

    def _learn(self, learning: Mapping[tuple[int, str, str], float], now: float) -> None:
        """Let the rules about new groups learn until their time is over, and store since when they do."""
        since_of = {
            (name, version): min(since for (_, *rule), since in learning.items() if rule == [name, version])
            for _, name, version in learning
        }
        for (name, version), since in self.engine.learn(since_of, now).items():
            value = msgspec.json.encode(Learning(name, version, since))
            self._first_writes += [
                Write(self._state, self._key(_LEARN_KEY) + name.encode(), value, partition)
                for partition in self._assigned
                if learning.get((partition, name, version)) != since
            ]

    def _process_changes(self, now: float) -> list[Write]:
        """Process the new changes. Each is stored in every partition for as long as a record may depend on it."""
        with self._lock:
            changes, self._new_changes = self._new_changes, deque()
            dropped, self._dropped_changes = self._dropped_changes, 0
        too_old = now - self.engine.history_s
        writes: list[Write] = []
        for change in changes:
            if change.at >= too_old:
                self.engine.policy_changed(change, now)
                self._stored_changes.pop(change.policy, None)
                self._stored_changes[change.policy] = change
                writes += self._write_everywhere(change.policy, msgspec.json.encode(change))
        too_many = len(self._stored_changes) - _MAX_CHANGES
        for place, (name, change) in enumerate(list(self._stored_changes.items())):
            if place < too_many or change.at < too_old:
                del self._stored_changes[name]
                writes += self._write_everywhere(name, None)
        self.engine.changes_dropped(dropped + max(0, too_many))
        return writes

    def _write_everywhere(self, policy: str, value: bytes | None) -> list[Write]:
        key = self._change_key() + policy.encode()
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
            writes.append(Write(self._state, f"{rule}/{name}".encode(), value, self._home(name)))
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
            status = {"schema": 1, "timestamp": rfc3339(now, 9), "worker": self._worker, "type": "alerts_dropped",
                      "reason": rule, "groups": groups,
                      **({"cluster": self.own.cluster} if self.own.cluster else {})}  # fmt: skip
            writes.append(Write(self._status, self._worker.encode(), orjson.dumps(status)))
        return writes


def _fingerprint_in(key: bytes, state: AlertState) -> str:
    """Return the fingerprint with which the key of a state ends. Raises ValueError if it is not that of the group.

    The state of a group that is known has not the group's values."""
    rule, _, name = key.decode().rpartition("/")
    is_right = _FINGERPRINT.fullmatch(name) if state.status == "known" else name == fingerprint(state.rule, state.group)
    if rule != state.rule or not is_right:
        raise ValueError(f"it is the state of a group of the rule {state.rule}, and its key is that of another one")
    return name


def _load_learning(partition: int, value: bytes, learning: dict[tuple[int, str, str], float]) -> None:
    try:
        found = msgspec.json.decode(value, type=Learning)
    except (ValueError, RecursionError) as error:
        log.warning("a record of the alert state cannot be decoded and is ignored", key="learn", error=str(error))
    else:
        learning[partition, found.rule, found.version] = found.since
