"""A consumer of one topic that is a member of a group: every sink reads through one of its own."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent import futures
from functools import partial
from typing import Final, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from enrich.runtime.work_thread import start_work
from streams.kafka.connection import CALL_TIMEOUT_S, Connection, make_consumer, report_unreachable
from streams.kafka.consumer_groups import others_of
from streams.kafka.followed import Followed
from streams.kafka.handover import Handover
from streams.kafka.hanging_calls import close_consumer
from streams.kafka.lag import LagMonitor
from streams.kafka.records import Record, take
from streams.kafka.unreadable import Unreadable

log = structlog.get_logger("kubeweir.streams")
T = TypeVar("T")

_POLL_S: Final = 0.5
"""How often a waiting consumer polls, which is how it takes part in rebalances."""


class GroupReader:
    """Reads a topic as a member of a group. It commits only through :meth:`commit`, never by itself."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topic: str,
        on_assigned: Callable[[Sequence[int]], None] | None = None,
        on_new: Callable[[], None] | None = None,
        monitor: LagMonitor | None = None,
        patience_s: float = math.inf,
    ) -> None:
        """``on_assigned`` is called, inside :meth:`take`, with the partitions that this consumer reads from now on.

        A new group, which has committed nothing yet, begins with the oldest records. With ``on_new`` it begins after
        the newest one instead, and ``on_new`` is called before ``on_assigned``. ``monitor`` measures the group until
        :meth:`close`. ``patience_s``: how long this member may fail before it leaves its partitions to other members
        (:mod:`streams.kafka.handover`)."""
        self.problem: str | None = "Kafka has not been reached yet"
        self.is_writing = False
        """Set while the destination takes records, which may last: meanwhile, nothing is read or committed."""
        self._topic, self._on_assigned, self._on_new = topic, on_assigned or (lambda _: None), on_new
        self._begins: dict[int, int] = {}
        """Partitions of a new group to the offsets where it begins, which are not committed yet."""
        self._unplaced: str | None = None
        """Why it could not be found out whether the group is new."""
        self._committed: dict[int, int] = {}
        self._revoked: set[int] = set()
        """Partitions that were revoked since the last take: somebody else may have committed more of them."""
        self._waits, self._waiting, self._working = 0, False, False
        self._postponed: deque[Callable[[], None]] = deque()
        """Calls of ``on_new`` and ``on_assigned`` that wait until the destination has taken its records."""
        self._left_because, self._is_refused = "", False
        """Whether Kafka refuses to give records of the partitions that are assigned."""
        self._ahead: list[Record] = []
        """Records that arrived while the destination was waited for."""
        self._assigned: frozenset[int] = frozenset()
        self._group, self._monitor, self._patience_s = group, monitor, patience_s
        settings = {
            # A batch of which the destination refuses every record takes minutes: each is written alone.
            "max.poll.interval.ms": 900_000,
            # After a kill -9, the partitions wait this long for their next owner.
            "session.timeout.ms": 10_000,
            "error_cb": report_unreachable,
        }
        self._consumer = make_consumer(connection, group, settings)
        self._pass_over = partial(Unreadable(connection, group).pass_over, self._consumer)
        self._handover = Handover(lambda: others_of(connection, group, self._consumer.memberid()), patience_s)
        self._subscribe()
        if monitor is not None:
            monitor.follow(
                Followed(
                    group,
                    [topic],
                    lambda: [(topic, partition) for partition in self._assigned],
                    self._count_waits,
                    lambda: {(topic, partition): begin for partition, begin in dict(self._begins).items()},
                )
            )

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        """Return up to ``max_records`` records; an empty list after ``wait_s`` without any. Raises StopServiceError."""
        self._call_when_idle()
        if self._handover.has_left:
            return self._stay_outside(wait_s)
        self._revoked.clear()
        if self._ahead:
            records, self._ahead = self._ahead, []
            return records
        if (records := self._poll(max_records, wait_s, paused=False)) and self._monitor is not None:
            self._monitor.note("fetch")
        if self._is_refused and self._assigned and self.fail():
            self.leave(self.problem or "")
        return records

    def during(self, work: Callable[[], T]) -> T:
        """Run ``work``, which may take its time, and stay a member of the group meanwhile. Raises what it raises.

        It runs on a thread of its own. If it hangs, the partitions are left to other members."""
        self._working, started_at = True, time.monotonic()
        done = start_work(work, f"{self._group}.work")
        try:
            while not futures.wait((done,), _POLL_S).done:
                self._poll_aside(0.0)
                seconds = time.monotonic() - started_at
                if seconds > self._patience_s and not self._handover.has_left and self.fail():
                    self.leave(f"a write has not ended for {seconds:.0f} s")
        finally:
            self._working = False
        self._call_when_idle()
        return done.result()

    def fail(self) -> bool:
        """Note that the destination fails. Return whether this member should :meth:`leave` its work, or has done so."""
        return self._handover.fail() or self._handover.has_left

    def succeed(self) -> None:
        """Note that the destination has taken records."""
        self._handover.succeed()

    def leave(self, why: str) -> None:
        """Leave the group for some time, if that is not done. What is not committed is read by the other members."""
        if self._handover.has_left:
            return
        log.error("leaving the partitions to other workers, because this one fails", group=self._group, error=why)
        self._left_because = f"it has left {self._topic} to other workers, because it failed: {why}"
        self.problem, self._is_refused = self._left_because, False
        self._handover.leave()
        with contextlib.suppress(KafkaException):  # a fatal error is raised by the next poll, too
            self._consumer.unsubscribe()

    def _stay_outside(self, wait_s: float) -> list[Record]:
        # The client leaves the group inside this call. What it had fetched before is somebody else's now.
        with contextlib.suppress(KafkaException):
            take(self._consumer, 1, wait_s, [], self._pass_over)
        self.problem = self._left_because  # it may have been given partitions once more
        if self._handover.comes_back():
            log.info("joining the group again", group=self._group)
            self._subscribe()
        return []

    def _poll(self, max_records: int, wait_s: float, *, paused: bool) -> list[Record]:
        """Pause or resume the partitions, and return what was fetched. What librdkafka refuses is a problem, and tried
        again at the next call."""
        try:
            if paused is not self._waiting:
                (self._consumer.pause if paused else self._consumer.resume)(self._consumer.assignment())
                self._waiting = paused
            if self._unplaced is not None and not paused:
                # Assigned without knowing where to begin, it reads nothing. It asks for its partitions anew.
                self.problem, self._unplaced = self._unplaced, None
                self._consumer.unsubscribe()
                self._subscribe()
            refused: list[str] = []
            records = take(self._consumer, max_records, wait_s, refused, self._pass_over)
        except KafkaException as error:
            self._note(error.args[0].str())
            time.sleep(wait_s)  # else the caller would ask again at once, and so use a whole core
            return []
        if refused:
            self._is_refused = True
            self._note(refused[-1])
        elif records and not paused:
            self.problem, self._is_refused = None, False
        return records

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for ``seconds`` without reading, and stay a member of the group. Return whether ``stop`` is set.

        A member that does not poll keeps every rebalance from ending, and so stops the whole group; here its partitions
        are paused, and polling goes on."""
        deadline = time.monotonic() + seconds
        while not stop.is_set():
            self._waits += 1
            left = deadline - time.monotonic()
            self._poll_aside(max(0.0, min(left, _POLL_S)))
            if left <= 0:
                break
        return stop.is_set()

    def _poll_aside(self, wait_s: float) -> None:
        """Take part in rebalances, with paused partitions."""
        # What was fetched before the pause may still come. To seek back could fail, and a seek that fails skips it.
        self._ahead += self._poll(1, wait_s, paused=True)

    def commit(self, records: Sequence[Record]) -> None:
        """Commit the offsets of these records, and so of all records before them.

        Those of a partition that was revoked meanwhile are left out: its next owner reads them again. Where a new group
        begins is committed, too, also without records."""
        last = {record.partition: record.offset + 1 for record in records if record.partition not in self._revoked}
        ends = {**self._begins, **last}
        if not ends:
            return
        offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in ends.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
            self._committed |= ends
            self._begins = {}
            if self._monitor is not None:
                self._monitor.note("commit")
        except KafkaException as error:
            # These records are read again: by this consumer, or by the one that has the partition now.
            log.warning("a commit failed; these records will be read again", error=error.args[0].str())

    def lag(self) -> int | None:
        """Return how many records of our partitions are not committed, as of the last fetch; None if unknown."""
        if not self._assigned:
            return 0
        behind = 0
        for partition, done in self._committed.items():
            try:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            except KafkaException:
                return None
            behind += max(0, end - done)
        return behind if self._committed else None

    def close(self) -> None:
        """Leave the group and disconnect."""
        if self._monitor is not None:
            self._monitor.forget(self._group)
        if not close_consumer(self._consumer):
            # The sink is closed, or has another reader, by the time the client calls back.
            self._on_assigned, self._on_new = lambda _: None, None
            self._postponed.clear()

    def _subscribe(self) -> None:
        self._consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def _count_waits(self) -> int:
        """Return a number that rises while the destination is waited for."""
        self._waits += self.is_writing
        return self._waits

    def _note(self, problem: str) -> None:
        """Remember what is refused, until records come or partitions are assigned."""
        if self.problem != problem:
            log.error("Kafka refuses to let this consumer read; retrying", error=problem)
        self.problem = problem

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self.problem, self._is_refused = None, False
        self._assigned = frozenset(one.partition for one in partitions)
        self._committed.clear()
        placed = list(partitions)
        # A KafkaException that leaves this callback cannot be caught outside: consume() raises a KafkaError instead.
        try:
            if self._on_new is not None and placed:
                placed = self._place(consumer, placed)
                consumer.assign(placed)
            if self._waiting:
                # Pausing has no effect on partitions that are not assigned yet.
                consumer.assign(placed)
                consumer.pause(placed)
        except KafkaException as error:
            self._unplaced = error.args[0].str()
            with contextlib.suppress(KafkaException):
                consumer.assign([])
            return
        if self._begins and self._on_new is not None:
            self._call_when_idle(self._on_new)
        self._call_when_idle(partial(self._on_assigned, [one.partition for one in partitions]))

    def _place(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Return where to begin: at what is committed, or at the end. Raises KafkaException."""
        placed: list[TopicPartition] = consumer.committed(list(partitions), CALL_TIMEOUT_S)
        self._begins = {}
        for one in placed:
            if one.offset < 0:
                _, one.offset = consumer.get_watermark_offsets(TopicPartition(one.topic, one.partition), CALL_TIMEOUT_S)
                self._begins[one.partition] = one.offset
        return placed

    def _on_revoke(self, _consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._assigned = frozenset()
        self._revoked |= {one.partition for one in partitions}
        self._begins, self._ahead, self._committed = {}, [], {}
        self._call_when_idle(partial(self._on_assigned, []))

    def _call_when_idle(self, call: Callable[[], None] | None = None) -> None:
        """Make the postponed calls and this one, but not during :meth:`during`: one thread at a time uses a sink."""
        self._postponed += [call] if call is not None else []
        while self._postponed and not self._working:
            self._postponed.popleft()()
