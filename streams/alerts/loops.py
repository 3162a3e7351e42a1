"""The two loops of the role `alerts`, each at home in Kafka: records to deltas, and deltas to alerts.

Both write what comes of a record in one transaction with its offset, so that a kill repeats nothing and loses nothing,
and one that was frozen and thaws can write no more. What they know besides is read back when partitions are given to
them: which records came before from the minute before; windows from the deltas of one window's length; alerts and what
is known of groups from ``<prefix>.alerts.state``. Where a transaction fails they begin anew in the same way.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec
import orjson
import structlog

from streams.alerts.alert import State, stamp
from streams.alerts.counting import Counter, Repeats, Seen, parse
from streams.alerts.deltas import DeltaError, decode, encode
from streams.alerts.engine import Engine
from streams.alerts.model import Rule
from streams.alerts.policy_changes import Change
from streams.kafka.connection import ReadError
from streams.kafka.exactly_once import TopicAndPartition, TransactionAbortedError, Write
from streams.kafka.records import Record

log = structlog.get_logger("kubeweir.streams")

_MOST: Final = 5000
_WAIT_S: Final = 0.1
_EVERY_S: Final = 0.1
"""Between two transactions of the counting half, so that one has some records."""
_IDLE_S: Final = 2.0
"""Between two of the keeping half where nothing came of it but offsets."""
_TELL_S: Final = 10.0
_REPEATS_MS: Final = 60_000
_CHANGE: Final = b"change/"


class Bus(Protocol):
    """See :class:`streams.kafka.exactly_once.ExactlyOnce`."""

    def take(self, most: int, wait_s: float) -> list[Record]: ...

    def is_replayed(self, record: Record) -> bool: ...

    def commit(self, writes: Sequence[Write]) -> None: ...


class Rules(Protocol):
    """The rules in force; another object when they change."""

    @property
    def current(self) -> Sequence[Rule]: ...


class CountLoop:
    """Denied flows and losses in, deltas out."""

    def __init__(
        self,
        rules: Rules,
        denied: str,
        deltas: tuple[str, int],
        send_dead_letter: Callable[[Record, str, str], bool],
        count: Callable[[str, int], None],
    ) -> None:
        """``denied``: the topic; all else that comes is of the status topic. ``deltas``: topic and partitions.
        ``count`` is told records, repeats, deltas and bad_records."""
        self._rules, self._denied, self._deltas = rules, denied, deltas
        self._send_dead_letter, self._count = send_dead_letter, count
        self._repeats: dict[int, Repeats] = {}
        self._known: Sequence[Rule] = ()
        self._counter = Counter(())

    @staticmethod
    def replay_from_ms(topic: str) -> int:
        """From when on records are read once more: a repeat comes soon after."""
        del topic
        return int(time.time() * 1000) - _REPEATS_MS

    def owned(self, partitions: Sequence[TopicAndPartition]) -> None:
        """These are read from now on."""
        self._repeats = {partition: Repeats() for topic, partition in partitions if topic == self._denied}

    def step(self, bus: Bus) -> None:
        """Some records. Raises TransactionAbortedError, StopServiceError."""
        began = time.monotonic()
        records = bus.take(_MOST, _WAIT_S)
        if not records:
            return
        if self._rules.current is not self._known:
            self._known = self._rules.current
            self._counter = Counter(self._known)
        live = [record for record in records if self._is_live(bus, record)]
        for record in live:
            self._take(record)
        deltas = self._counter.drain()
        topic, partitions = self._deltas
        if live:
            bus.commit([Write(topic, None, value, number) for number, value in encode(deltas, partitions)])
        self._count("records", len(live))
        self._count("deltas", len(deltas))
        time.sleep(max(0.0, _EVERY_S - (time.monotonic() - began)))

    def _is_live(self, bus: Bus, record: Record) -> bool:
        if not bus.is_replayed(record):
            return True
        if record.topic == self._denied:
            try:
                self._is_repeat(record, self._counter.read(record.value))
            except ValueError:
                log.debug("a bad record was told when it first came", offset=record.offset)
        return False

    def _take(self, record: Record) -> None:
        try:
            if record.topic != self._denied:
                self._counter.status(parse(record.value))
                return
            seen = self._counter.read(record.value)
            if self._is_repeat(record, seen):
                self._count("repeats", 1)
            else:
                self._counter.count(seen)
        except ValueError as error:
            self._count("bad_records", 1)
            log.warning("dead letter", reason="no_record", topic=record.topic, offset=record.offset, error=str(error))
            self._send_dead_letter(record, "no_record", str(error))

    def _is_repeat(self, record: Record, seen: Seen) -> bool:
        return self._repeats.setdefault(record.partition, Repeats()).is_one(seen)


class KeepLoop:
    """Deltas and changes of policies in; alerts and their state out."""

    def __init__(
        self,
        rules: Rules,
        names: tuple[str, str, str],
        partitions: int,
        worker: str,
        make_engine: Callable[[Sequence[Rule]], Engine],
        read_state: Callable[[Sequence[int]], Iterable[Record]],
        dropped: Callable[[], Tally[str]],
        bad: Callable[[Record, str], None],
    ) -> None:
        """``names``: of the topics of alerts, of state, and of status; ``partitions``: of state and deltas.
        ``dropped``: groups of a rule that went for lack of room since it was last asked. ``bad`` is told of deltas that
        are none."""
        self._rules, self._partitions, self._worker = rules, partitions, worker
        self._alerts, self._state, self._status = names
        self._make_engine, self._read_state, self._dropped, self._bad = make_engine, read_state, dropped, bad
        self._own: list[int] = []
        self._lock = threading.Lock()
        self._heard: list[Change] = []
        self._told: dict[str, Change] = {}
        self._uncommitted = False
        self._committed = self._tell_next = 0.0
        self._known = rules.current
        self.engine = make_engine(self._known)

    def replay_from_ms(self, topic: str) -> int:
        """From when on deltas are read once more: as far as any window goes."""
        del topic
        return int((time.time() - self.engine.span_s) * 1000)

    def hear(self, change: Change) -> None:
        """A policy has changed (any thread)."""
        with self._lock:
            self._heard.append(change)

    def owned(self, partitions: Sequence[TopicAndPartition]) -> None:
        """These are kept here from now on: what is known of them is read. Raises TransactionAbortedError."""
        self._known = self._rules.current
        self.engine = self._make_engine(self._known)
        self._own = sorted(partition for _, partition in partitions)
        self._told = {}
        now = time.time()
        try:
            latest = {record.key: record.value for record in self._read_state(self._own)}
        except ReadError as error:
            raise TransactionAbortedError(str(error)) from error
        for key, value in latest.items():
            if value:
                self._load(key, value, now)
        if self._own:
            log.info("alerts are kept here", partitions=self._own, firing=sum(self.engine.firing().values()))

    def step(self, bus: Bus) -> None:
        """Some deltas, and the time that passes. Raises TransactionAbortedError, StopServiceError."""
        records = bus.take(_MOST, _WAIT_S)
        if not self._own:
            return
        if self._rules.current is not self._known:
            raise TransactionAbortedError("the rules have changed")
        now = time.time()
        for record in records:
            try:
                self.engine.take(decode(record.value), now, replayed=bus.is_replayed(record))
            except DeltaError as error:
                self._bad(record, str(error))
        self._uncommitted = self._uncommitted or bool(records)
        writes = self._hear(now)
        self.engine.tick(now)
        writes += self._drained() + self._tell_dropped(now)
        idle = time.monotonic() - self._committed > _IDLE_S
        if writes or (self._uncommitted and idle):
            bus.commit(writes)
            self._uncommitted, self._committed = False, time.monotonic()

    def _load(self, key: bytes, value: bytes, now: float) -> None:
        try:
            if key.startswith(_CHANGE):
                change = msgspec.json.decode(value, type=Change)
                self._told[change.policy] = change
                self.engine.changed(change, now)
            else:
                self.engine.load(key.decode().rpartition("/")[2], msgspec.json.decode(value, type=State), now)
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("a record of alerts' state is not understood, and left out", key=key, error=str(error))

    def _hear(self, now: float) -> list[Write]:
        """Changes are kept as long as any record may look for them, for every partition."""
        with self._lock:
            heard, self._heard = self._heard, []
        writes = []
        for change in heard:
            self.engine.changed(change, now)
            self._told[change.policy] = change
            writes += self._everywhere(change.policy, msgspec.json.encode(change))
        for name in [name for name, change in self._told.items() if change.at < now - self.engine.span_s]:
            del self._told[name]
            writes += self._everywhere(name, None)
        return writes

    def _everywhere(self, policy: str, value: bytes | None) -> list[Write]:
        key = _CHANGE + policy.encode()
        return [Write(self._state, key, value, partition) for partition in self._own]

    def _drained(self) -> list[Write]:
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

    def _tell_dropped(self, now: float) -> list[Write]:
        """Groups that went are a loss, and told as one."""
        if time.monotonic() < self._tell_next:
            return []
        self._tell_next = time.monotonic() + _TELL_S
        writes = []
        for rule, groups in self._dropped().items():
            log.error("groups of an alert rule were dropped: there are more than WEIR_ALERT_GROUPS", rule=rule)
            told = {"schema": 1, "timestamp": stamp(now), "worker": self._worker, "type": "alerts_dropped",
                    "reason": rule, "groups": groups}  # fmt: skip
            writes.append(Write(self._status, self._worker.encode(), orjson.dumps(told)))
        return writes
