"""One look at how far a group is behind; :mod:`streams.kafka.lag` says what is looked at, and what follows from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Literal, Protocol

from confluent_kafka.admin import AdminClient, OffsetSpec

from enrich.runtime.stall import Stall
from streams.kafka.connection import Connection
from streams.kafka.consumer_groups import GroupCoordinators
from streams.kafka.followed import Followed, FollowedPartition
from streams.kafka.next_record import has_record
from streams.kafka.offsets import first_or_last_offsets, stable_and_last_offsets
from streams.kafka.open_transactions import OpenTransactions
from streams.kafka.records import TopicAndPartition

_TIMEOUT_S: Final = 5.0

Call = Literal["fetch", "produce", "write", "commit"]


class Progress(Protocol):
    """Exports what is measured; see :class:`streams.metrics.progress.ProgressMetrics`."""

    def note(self, call: Call) -> None: ...

    def set_lag(self, group: str, records: int, seconds: float) -> None: ...

    def forget(self, group: str) -> None: ...


class Measurement:
    """Measures groups. One thread may call it."""

    def __init__(
        self,
        connection: Connection,
        stall_s: float,
        metrics: Progress,
        groups: GroupCoordinators,
        transactions: OpenTransactions,
    ) -> None:
        self._connection, self._stall_s, self._metrics = connection, stall_s, metrics
        self._groups, self._open = groups, transactions

    def measure(self, admin: AdminClient, followed: Followed) -> None:
        """Look at a group once. Raises KafkaException and TimeoutError."""
        places = followed.ids.look(admin, followed.topics)
        followed.missing.update(waits=bool(followed.ids.unseen), progressed=False)
        done = self._done(followed, places)
        stable, ends = stable_and_last_offsets(admin, places)
        stable = ends if followed.reads_uncommitted else stable
        # Nothing is committed, or the topic was made again, and is shorter.
        unknown = [place for place in places if not 0 <= done.get(place, -1) <= ends[place]]
        starts = first_or_last_offsets(admin, unknown, OffsetSpec.earliest())
        followed.partitions = {
            place: followed.partitions.get(place) or FollowedPartition(Stall(self._stall_s)) for place in places
        }
        self._note_owner(followed)
        waits, begins, committed = followed.waits(), followed.begins(), False
        excused = waits != followed.waited
        followed.waited = waits
        for place, partition in followed.partitions.items():
            end, at = ends[place], max(starts.get(place, done.get(place, 0)), begins.get(place, 0))
            due = partition.found != at or time.monotonic() >= partition.look_at
            if due and partition.stall.seconds > self._stall_s / 2:
                self._look_for_record(followed, place, at, stable[place], partition)
            # There is no record before the last stable offset, or there may be.
            after = max(at, stable[place]) if partition.empty_until >= stable[place] else at
            progressed, is_first = partition.done != at, partition.done < 0
            partition.done, partition.records = at, end - after
            partition.seconds = partition.waiting.look(end, after)
            partition.stall.update(waits=after < stable[place], progressed=progressed or excused)
            committed = committed or (progressed and not is_first and partition.is_own)
        own = {place: stable[place] for place, partition in followed.partitions.items() if partition.is_own}
        self._open.note_offsets(followed.group, own, ends)
        self._export(followed, committed=committed)

    def _note_owner(self, followed: Followed) -> None:
        """Note which partitions this process reads. If it reads none, those that no other member of the group has: a
        worker that stands by is not to blame for others, and one that does not get in is. Raises KafkaException."""
        own = set(followed.own())
        others = (
            self._groups.assigned_partitions(followed.group) if not own and followed.positions is None else frozenset()
        )
        for place, partition in followed.partitions.items():
            is_own = place in own if own else place not in others
            if is_own and not partition.is_own:
                # What it was stalled by before was somebody else's.
                partition.stall = Stall(self._stall_s)
            partition.is_own = is_own

    def _export(self, followed: Followed, *, committed: bool) -> None:
        partitions = followed.read_here()
        records, seconds = sum(one.records for one in partitions), max((one.seconds for one in partitions), default=0.0)
        self._metrics.set_lag(followed.group, records, seconds)
        if committed and followed.positions is None:
            self._metrics.note("commit")

    def _done(self, followed: Followed, places: Sequence[TopicAndPartition]) -> Mapping[TopicAndPartition, int]:
        if followed.positions is not None:
            return followed.positions()
        return self._open.committed_of(followed.group, places)

    def _look_for_record(
        self, followed: Followed, place: TopicAndPartition, at: int, end: int, partition: FollowedPartition
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
