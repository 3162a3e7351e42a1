"""Sliding windows over many groups at once, stored in columns: sums of amounts, and numbers of distinct values.

THEORY OF OPERATION

1. Time is cut into buckets. A bucket is one second wide, or a sixtieth of the window if that is more: a window of 1 m
   has 60 buckets of 1 s, a window of 5 m has 60 buckets of 5 s.
2. A group is a row, handed out by :class:`streams.alerts.group_table.GroupTable`. Rows are reused after eviction.
3. The amount of a group in a bucket is one number of the array ``[bucket modulo columns, row]``. When the clock moves
   on, the oldest bucket is zeroed for all groups and becomes the newest.
4. A window ends at its group's latest record, but at most ``lateness`` ago and never in the future. The reason: a
   record may arrive several seconds after its own time, because the kernel reports a denied flow's count at the end of
   a 5 s window. A burst that arrives so late must still be evaluated as a burst.
5. So the ring has as many buckets as the window and the lateness together; anything older cannot be in any window and
   is late: the caller does not add it, and counts it.

Example: window 10 s, lateness 7 s, so 17 buckets. It is second 100. A group's latest record is of second 89, more than
7 s ago, so its window ends at second 93 and covers 84 to 93. A record of second 84 is accepted; one of second 83 is
late. With a latest record of second 97 the window covers 88 to 97.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]

_BUCKETS: Final = 60
_NEVER: Final = -(1 << 40)
"""A bucket before every bucket of a real time."""
_MAX_AMOUNT: Final = np.iinfo(np.uint32).max
_INITIAL_SLOTS: Final = 4
_SLOT: Final = np.dtype([("value", "<u8"), ("bucket", "<i8")])


class WindowClock:
    """The width and the number of buckets, the current bucket, and the bucket where each group's window ends."""

    def __init__(self, window_s: int, lateness_s: int) -> None:
        self.width = max(1, -(-window_s // _BUCKETS))
        """Seconds of a bucket."""
        self.span = -(-window_s // self.width)
        """Buckets of a window."""
        self.lateness = -(-lateness_s // self.width)
        """Buckets by which a window may end before the current bucket."""
        self.columns = self.span + self.lateness
        """Buckets that can be part of a window."""
        self.head = _NEVER
        """The current bucket."""
        self._latest = np.full(0, _NEVER, np.int64)

    def bucket(self, second: float) -> int:
        """Return the bucket of a second since the epoch."""
        return int(second // self.width)

    def bucket_start(self, bucket: int) -> int:
        """Return the first second of a bucket."""
        return bucket * self.width

    def grow(self, rows: int) -> None:
        """Extend the columns to ``rows`` rows."""
        more = np.full(rows - len(self._latest), _NEVER, np.int64)
        self._latest = np.concatenate([self._latest, more])

    def observe(self, rows: Ints, buckets: Ints) -> None:
        """Note that each row's group had a record in the bucket at the same index."""
        np.maximum.at(self._latest, rows, buckets)

    def ends(self, rows: Ints) -> Ints:
        """Return the last bucket of each group's window."""
        return np.clip(self._latest[rows], self.head - self.lateness, self.head)

    def set_back(self, head: int) -> None:
        """Make an earlier bucket the current one, because the wall clock was set back."""
        self.head = head
        np.minimum(self._latest, head, out=self._latest)

    def clear(self, rows: Ints) -> None:
        """Forget the groups of evicted rows."""
        self._latest[rows] = _NEVER


class WindowSums:
    """The sum of the amounts in each group's window."""

    def __init__(self, clock: WindowClock) -> None:
        self._clock = clock
        # Bucket first: zeroing a bucket for all groups then writes one contiguous stretch of memory.
        self._counts = np.zeros((clock.columns, 0), np.uint32)

    def grow(self, rows: int) -> None:
        """Extend the columns to ``rows`` rows."""
        more = np.zeros((self._clock.columns, rows - self._counts.shape[1]), np.uint32)
        self._counts = np.concatenate([self._counts, more], axis=1)

    def advance(self, before: int, head: int) -> None:
        """Zero the buckets that became current when the clock moved from ``before`` to ``head``."""
        columns = self._clock.columns
        if head - before >= columns:
            self._counts[:] = 0
        else:
            for bucket in range(before + 1, head + 1):
                self._counts[bucket % columns] = 0

    def set_back(self, before: int, head: int) -> None:
        """Count what is in buckets after ``head``, which are in the future now, in ``head``."""
        columns = self._clock.columns
        moved = np.zeros(self._counts.shape[1], np.int64)
        for bucket in range(max(head, before - columns) + 1, before + 1):
            moved += self._counts[bucket % columns]
            self._counts[bucket % columns] = 0
        column = self._counts[head % columns]
        column[:] = np.minimum(column.astype(np.int64) + moved, _MAX_AMOUNT)

    def add(self, rows: Ints, bucket: int, amounts: Ints) -> None:
        """Add amounts to a bucket that is not late. Each row may occur once. Counts stop at 2**32 - 1."""
        column = self._counts[bucket % self._clock.columns]
        column[rows] = np.minimum(column[rows].astype(np.int64) + amounts, _MAX_AMOUNT)

    def totals(self, rows: Ints) -> Ints:
        """Return the sum of each group's window."""
        clock = self._clock
        totals = np.zeros(len(rows), np.int64)
        ends = clock.ends(rows)
        for end in np.unique(ends).tolist():
            chosen = ends == end
            picked = rows[chosen]
            sums = np.zeros(len(picked), np.int64)
            for bucket in range(end - clock.span + 1, end + 1):
                sums += self._counts[bucket % clock.columns][picked]
            totals[chosen] = sums
        return totals

    def clear(self, rows: Ints) -> None:
        """Forget the groups of evicted rows."""
        self._counts[:, rows] = 0


class DistinctValues:
    """The number of distinct values in each group's window, up to ``limit``.

    A value counts by its latest bucket. Of more than ``limit`` values the latest are kept, so whether a window has at
    least ``limit`` values is exact: a value that is evicted would have left the window before those that are kept.
    """

    def __init__(self, clock: WindowClock, limit: int, total_limit: int) -> None:
        """``limit`` is per group. ``total_limit`` bounds the slots of all groups together: once it is reached, a group
        keeps the slots that it has, and a new value replaces the oldest one."""
        self._clock, self._limit, self._total_limit = clock, limit, total_limit
        self._slots: list[np.ndarray[Any, np.dtype[np.void]] | None] = []
        self._allocated = 0
        self.evicted = 0
        """Values evicted from a window because the total limit was reached; the count is then too low."""

    def grow(self, rows: int) -> None:
        """Extend the columns to ``rows`` rows."""
        self._slots += [None] * (rows - len(self._slots))

    def set_back(self, head: int) -> None:
        """Count values of buckets after ``head``, which are in the future now, in ``head``."""
        for slots in self._slots:
            if slots is not None:
                slots["bucket"] = np.minimum(slots["bucket"], head)

    def add(self, row: int, bucket: int, value: int) -> None:
        """Add a value (see :func:`streams.alerts.deltas.value_hash`) in a bucket that is not late."""
        slots = self._slots[row]
        if slots is None:
            slots = self._slots[row] = self._allocate(_INITIAL_SLOTS)
        known = np.flatnonzero(slots["value"] == value)
        if len(known):
            index = int(known[0])
            slots["bucket"][index] = max(bucket, int(slots["bucket"][index]))
            return
        index = int(slots["bucket"].argmin())
        if int(slots["bucket"][index]) > self._clock.head - self._clock.columns and len(slots) < self._limit:
            if self._allocated < self._total_limit:
                index = len(slots)
                slots = self._slots[row] = np.concatenate([slots, self._allocate(min(index, self._limit - index))])
            else:
                self.evicted += 1
        if bucket > int(slots["bucket"][index]):
            slots[index] = (value, bucket)

    def totals(self, rows: Ints) -> Ints:
        """Return the number of distinct values in each group's window."""
        first = self._clock.ends(rows) - self._clock.span
        return np.array(
            [0 if (slots := self._slots[row]) is None else np.count_nonzero(slots["bucket"] > begin)
             for row, begin in zip(rows.tolist(), first.tolist(), strict=True)],
            np.int64,
        )  # fmt: skip

    def clear(self, rows: Ints) -> None:
        """Forget the groups of evicted rows."""
        for row in rows.tolist():
            slots = self._slots[row]
            self._allocated -= 0 if slots is None else len(slots)
            self._slots[row] = None

    def _allocate(self, count: int) -> np.ndarray[Any, np.dtype[np.void]]:
        slots = np.zeros(min(count, self._limit), _SLOT)
        slots["bucket"] = _NEVER
        self._allocated += len(slots)
        return slots
