"""How far a role is behind, measured at the broker: by end and committed offsets, not by what a client believes.

Theory of operation. A client whose brokers have moved, or whose topic was made again, may wait for ever and find
nothing wrong. So a thread with a client of its own asks, every few seconds, for each group of the role:

1. Where does each partition end, and what is committed? If 130 is the end and 100 is committed, 30 records wait.
2. Since when? The first look that saw an end beyond 100 says so (:mod:`enrich.runtime.waiting_time`).
3. Is there a record at all from 100 on? A transaction's end takes an offset too, and compaction removes records. So
   when nothing has got done for half of ``WEIR_STALL``, the next record is read, and again after each ``WEIR_STALL``:
   retention may remove it.
4. Did anything of the group's own partitions get done since the last look? If not for ``WEIR_STALL`` seconds, the role
   is not ready; after 5 times that, its process ends, and is restarted with new clients (:mod:`enrich.runtime.stall`).
   So it is if a topic is gone, because the role makes its topics when it starts; and at once if a topic was made
   again (:mod:`streams.kafka.topic_ids`).

If Kafka does not answer for ``WEIR_STALL`` seconds, the role is not ready either. It is not restarted then, nor while a
missing right or another cause is known for which Kafka refuses the role: a restart would change neither.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, Protocol

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, OffsetSpec

from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.stall import Stall
from enrich.runtime.waiting_time import WaitingTime
from streams.kafka.committed import CommittedOffsets
from streams.kafka.connection import Connection, admin_client
from streams.kafka.consumer_groups import assigned_partitions
from streams.kafka.next_record import has_record
from streams.kafka.offsets import first_or_last_offsets
from streams.kafka.records import TopicAndPartition
from streams.kafka.topic_ids import TopicIds, rewind

log = structlog.get_logger("kubeweir.streams")

_MEASURE_EVERY_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
_REWIND_S: Final = 8.0
"""A supervisor kills a role soon after its WEIR_STOP_TIMEOUT, if somebody stops it meanwhile."""

Call = Literal["fetch", "produce", "write", "commit"]


class Progress(Protocol):
    """Exports what is measured; see :class:`streams.metrics.progress.ProgressMetrics`."""

    def note(self, call: Call) -> None: ...

    def set_lag(self, group: str, records: int, seconds: float) -> None: ...

    def forget(self, group: str) -> None: ...


@dataclass(slots=True)
class Followed:
    """A group of the role, or another reader with positions of its own."""

    group: str
    topics: Sequence[str]
    own: Callable[[], Collection[TopicAndPartition]]
    """Return the partitions that this process reads, as it believes."""
    waits: Callable[[], int] = lambda: 0
    """Return a number that rises while the reader waits for something else than Kafka, such as its destination."""
    begins: Callable[[], Mapping[TopicAndPartition, int]] = dict
    """Return where the reader begins in partitions of which nothing is committed, if not at the oldest record."""
    positions: Callable[[], Mapping[TopicAndPartition, int]] | None = None
    """Return what is done of each partition, for a reader that commits nothing."""
    has_record: Callable[[TopicAndPartition, int, int], bool] | None = None
    """Return whether there is a record between two offsets, if the reader can tell; else a second client looks."""
    partitions: dict[TopicAndPartition, _Partition] = field(default_factory=dict)
    waited: int = 0
    ids: TopicIds = field(default_factory=TopicIds)
    missing: Stall = field(default_factory=lambda: Stall(0.0))
    """How long there have been topics that Kafka does not show."""


@dataclass(slots=True)
class _Partition:
    stall: Stall
    waiting: WaitingTime = field(default_factory=WaitingTime)
    done: int = -1
    found: int = -1
    """A record was found at or after this offset."""
    look_at: float = 0.0
    """When it is looked for again."""
    empty_until: int = -1
    """No record was found before this offset."""
    seconds: float = 0.0
    records: int = 0
    is_own: bool = False
    """Whether this process reads it, or should: no other member of the group does."""


class LagMonitor:
    """Measures the groups of one role."""

    def __init__(
        self, connection: Connection, stall_s: float, metrics: Progress, causes: Callable[[], Sequence[str]] = tuple
    ) -> None:
        """``causes`` returns why Kafka refuses the role, as far as is known: no restart changes that."""
        self._connection, self._stall_s, self._metrics, self._causes = connection, stall_s, metrics, causes
        self._every_s = min(_MEASURE_EVERY_S, stall_s / 5)
        self._followed: dict[str, Followed] = {}
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None
        self._committed = CommittedOffsets(connection, _TIMEOUT_S)
        self._answered_at = time.monotonic()
        self._cause = ""
        self._failed: StopServiceError | None = None
        self._remade: dict[str, Followed] = {}
        self._end: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def follow(self, followed: Followed) -> None:
        """Measure a group from now on."""
        followed.missing.limit_s = self._stall_s
        with self._lock:
            self._followed[followed.group] = followed

    def forget(self, group: str) -> None:
        """Measure a group no longer."""
        with self._lock:
            self._followed.pop(group, None)
        self._metrics.forget(group)

    def start(self, end: Callable[[], None]) -> None:
        """Start to measure. ``end`` is called when the process is to end; then :meth:`check` says why."""
        self._end = end
        self._answered_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring, and rewind the groups of topics that were made again. The role has left them by then."""
        self._stop.set()
        for followed in list(self._remade.values()):
            if followed.positions is None:
                rewind(self._connection, followed.group, followed.ids.remade, _REWIND_S)

    def note(self, call: Call) -> None:
        """Note that a call of the role's own clients has just worked. Any thread may call it."""
        self._metrics.note(call)

    def check(self) -> None:
        """Raise StopServiceError if the process ends because it has made no progress for long, or because a topic was
        made again."""
        if self._failed is not None:
            raise self._failed

    def problem(self) -> str | None:
        """Return what stalls, in words; None if nothing does."""
        silent_s = time.monotonic() - self._answered_at
        if silent_s >= self._stall_s:
            servers = self._connection["bootstrap.servers"]
            return f"Kafka has not answered for {silent_s:.0f} s at {servers}{self._cause}"
        with self._lock:
            found = [text for one in self._followed.values() if (text := self._stalled(one))]
        return "; ".join(found) or None

    def _stalled(self, followed: Followed) -> str | None:
        unseen = followed.ids.unseen
        if unseen and followed.missing.is_stalled:
            named = ", ".join(f"{topic}: {why}" for topic, why in unseen.items())
            return f"{followed.group} has had nothing to read for {followed.missing.seconds:.0f} s: {named}"
        late = [one for one in self._own(followed) if one.stall.is_stalled]
        if not late:
            return None
        seconds = max((one.stall.seconds for one in late), default=0.0)
        records = sum(one.records for one in late)
        return (
            f"{followed.group} has made no progress for {seconds:.0f} s: {records} records wait in {len(late)} "
            f"partitions of {', '.join(followed.topics)}, although Kafka answers"
        )

    @staticmethod
    def _own(followed: Followed) -> list[_Partition]:
        return [one for one in dict(followed.partitions).values() if one.is_own]

    def _stalls(self, followed: Followed) -> list[Stall]:
        return [followed.missing, *(one.stall for one in self._own(followed))]

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            with self._lock:
                followed = list(self._followed.values())
            try:
                self._measure(followed)
            except (KafkaException, TimeoutError) as error:
                self._cause = f" ({error.args[0].str()})" if isinstance(error, KafkaException) else self._cause
                self._admin = None  # the next one asks the bootstrap servers again
                self._committed.keep(())
                for stall in (stall for one in followed for stall in self._stalls(one)):
                    # Once Kafka is back, the role's clients have WEIR_STALL to find it by themselves.
                    stall.needs_new_clients(lambda: False)
            else:
                self._answered_at, self._cause = time.monotonic(), ""

    def _measure(self, followed: Sequence[Followed]) -> None:
        self._admin = self._admin or admin_client(self._connection)
        self._committed.keep([one.group for one in followed])
        for one in followed:
            self._measure_group(self._admin, one)
            if one.ids.remade:
                self._remade[one.group] = one
        # Only now: the role may end at once, and then it rewinds the groups that are noted.
        for one in followed:
            self._recover(one)

    def _measure_group(self, admin: AdminClient, followed: Followed) -> None:
        places = followed.ids.look(admin, followed.topics)
        followed.missing.update(waits=bool(followed.ids.unseen), progressed=False)
        done = self._done(followed, places)
        ends = first_or_last_offsets(admin, places, OffsetSpec.latest())
        # Nothing is committed, or the topic was made again, and is shorter.
        unknown = [place for place in places if not 0 <= done.get(place, -1) <= ends[place]]
        starts = first_or_last_offsets(admin, unknown, OffsetSpec.earliest())
        followed.partitions = {
            place: followed.partitions.get(place) or _Partition(Stall(self._stall_s)) for place in places
        }
        self._note_owner(admin, followed)
        waits, begins, committed = followed.waits(), followed.begins(), False
        excused = waits != followed.waited
        followed.waited = waits
        for place, partition in followed.partitions.items():
            end, at = ends[place], max(starts.get(place, done.get(place, 0)), begins.get(place, 0))
            due = partition.found != at or time.monotonic() >= partition.look_at
            if due and partition.stall.seconds > self._stall_s / 2:
                self._look_for_record(followed, place, at, end, partition)
            after = end if partition.empty_until >= end else at
            progressed, is_first = partition.done != at, partition.done < 0
            partition.done, partition.records = at, end - after
            partition.seconds = partition.waiting.look(end, after)
            partition.stall.update(waits=partition.records > 0, progressed=progressed or excused)
            committed = committed or (progressed and not is_first and partition.is_own)
        self._export(followed, committed=committed)

    def _note_owner(self, admin: AdminClient, followed: Followed) -> None:
        """Note which partitions this process reads. If it reads none, those that no other member of the group has: a
        worker that stands by is not to blame for others, and one that does not get in is. Raises KafkaException."""
        own = set(followed.own())
        others = assigned_partitions(admin, followed.group) if not own and followed.positions is None else frozenset()
        for place, partition in followed.partitions.items():
            is_own = place in own if own else place not in others
            if is_own and not partition.is_own:
                # What it was stalled by before was somebody else's.
                partition.stall = Stall(self._stall_s)
            partition.is_own = is_own

    def _export(self, followed: Followed, *, committed: bool) -> None:
        partitions = self._own(followed)
        records, seconds = sum(one.records for one in partitions), max((one.seconds for one in partitions), default=0.0)
        self._metrics.set_lag(followed.group, records, seconds)
        if committed and followed.positions is None:
            self._metrics.note("commit")

    def _recover(self, followed: Followed) -> None:
        if followed.ids.remade:
            names = ", ".join(followed.ids.remade)
            self._fail(f"{names}: deleted and made again; restarting, to read it from its beginning")
            return
        # Kafka has just answered a client that is not the role's.
        if any(stall.needs_new_clients(lambda: not self._causes()) for stall in self._stalls(followed)):
            problem = self._stalled(followed) or f"{followed.group} has made no progress"
            self._fail(f"{problem}; restarting, with new clients")

    def _fail(self, text: str) -> None:
        """End the process, once: a second SIGTERM would kill it before it has rewound its groups."""
        if self._failed is None:
            log.error(text)
            self._failed = StopServiceError(text, Exit.UNEXPECTED)
            self._end()

    def _done(self, followed: Followed, places: Sequence[TopicAndPartition]) -> Mapping[TopicAndPartition, int]:
        if followed.positions is not None:
            return followed.positions()
        return self._committed.of(followed.group, places)

    def _look_for_record(
        self, followed: Followed, place: TopicAndPartition, at: int, end: int, partition: _Partition
    ) -> None:
        """Note whether there is a record from ``at`` on that a reader would get. Raises KafkaException."""
        ask = followed.has_record or partial(self._has_record, followed.group)
        if ask(place, at, end):
            partition.found, partition.look_at = at, time.monotonic() + self._stall_s
        else:
            partition.empty_until = end

    def _has_record(self, group: str, place: TopicAndPartition, at: int, end: int) -> bool:
        del end
        return has_record(self._connection, group, place, at, _TIMEOUT_S)
