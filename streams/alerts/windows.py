"""Sliding windows over many groups at once, in columns: what is counted, and how many different values there are.

Time is cut into buckets of a second, or of a sixtieth of the window where that is more. A window ends at its group's
latest record, or ``lateness`` ago if that is later: a record may come that much after its time, and a burst that comes
so late has to be seen as one. So a window ends between ``lateness`` ago and now. What is older than any such window is
late, and is not counted.

A group is a row, given by :class:`streams.alerts.group_table.Groups`; rows are used again.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]

_BUCKETS: Final = 60
_NONE: Final = -(1 << 40)
_LARGEST: Final = np.iinfo(np.uint32).max
_FIRST_SLOTS: Final = 4
_SLOT: Final = np.dtype([("value", "<u8"), ("bucket", "<i8")])


class Clock:
    """Buckets of one width, and where a group's window ends."""

    def __init__(self, window_s: int, lateness_s: int) -> None:
        self.width = max(1, -(-window_s // _BUCKETS))
        self.span = -(-window_s // self.width)
        """Buckets of a window."""
        self.late = -(-lateness_s // self.width)
        self.columns = self.span + self.late
        """Buckets that may be in any window yet."""
        self.head = _NONE
        """The bucket of now."""
        self._latest = np.full(0, _NONE, np.int64)

    def bucket(self, second: float) -> int:
        """The bucket of a second since the epoch."""
        return int(second // self.width)

    def begin(self, bucket: int) -> int:
        """The second with which a bucket begins."""
        return bucket * self.width

    def grow(self, rows: int) -> None:
        """There are so many rows from now on."""
        more = np.full(rows - len(self._latest), _NONE, np.int64)
        self._latest = np.concatenate([self._latest, more])

    def see(self, rows: Ints, buckets: Ints) -> None:
        """Groups had records in these buckets."""
        np.maximum.at(self._latest, rows, buckets)

    def ends(self, rows: Ints) -> Ints:
        """The last bucket of each group's window."""
        return np.clip(self._latest[rows], self.head - self.late, self.head)

    def clear(self, rows: Ints) -> None:
        """These rows are no groups any more."""
        self._latest[rows] = _NONE


class Amounts:
    """How much there was of each group."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # A bucket is a row of memory: to empty one for all groups is to fill one stretch of it.
        self._counts = np.zeros((clock.columns, 0), np.uint32)

    def grow(self, rows: int) -> None:
        """There are so many rows from now on."""
        more = np.zeros((self._clock.columns, rows - self._counts.shape[1]), np.uint32)
        self._counts = np.concatenate([self._counts, more], axis=1)

    def advance(self, before: int, head: int) -> None:
        """The clock's head has moved on from ``before``."""
        columns = self._clock.columns
        if head - before >= columns:
            self._counts[:] = 0
        else:
            for bucket in range(before + 1, head + 1):
                self._counts[bucket % columns] = 0

    def add(self, rows: Ints, bucket: int, amounts: Ints) -> None:
        """Of one bucket that is fresh; each row once."""
        column = self._counts[bucket % self._clock.columns]
        column[rows] = np.minimum(column[rows].astype(np.int64) + amounts, _LARGEST)

    def totals(self, rows: Ints) -> Ints:
        """Of each group's window."""
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
        """These rows are no groups any more."""
        self._counts[:, rows] = 0


class Values:
    """How many different values there were of each group, as far as ``most``.

    Of each value only its latest bucket counts, and of more than ``most`` values the latest are kept: whether there are
    ``most`` in a window is known exactly, for what is dropped leaves the window before what is kept."""

    def __init__(self, clock: Clock, most: int, most_in_all: int) -> None:
        """``most_in_all``: of all groups together; past it a group keeps the places that it has."""
        self._clock, self._most, self._most_in_all = clock, most, most_in_all
        self._slots: list[np.ndarray[Any, np.dtype[np.void]] | None] = []
        self._places = 0
        self.squeezed = 0
        """Values that took another's place because there are too many in all."""

    def grow(self, rows: int) -> None:
        """There are so many rows from now on."""
        self._slots += [None] * (rows - len(self._slots))

    def add(self, row: int, bucket: int, value: int) -> None:
        """Of one bucket that is fresh."""
        slots = self._slots[row]
        if slots is None:
            slots = self._slots[row] = self._places_for(_FIRST_SLOTS)
        known = np.flatnonzero(slots["value"] == value)
        if len(known):
            place = int(known[0])
            slots["bucket"][place] = max(bucket, int(slots["bucket"][place]))
            return
        place = int(slots["bucket"].argmin())
        if int(slots["bucket"][place]) > self._clock.head - self._clock.columns and len(slots) < self._most:
            if self._places < self._most_in_all:
                place = len(slots)
                slots = self._slots[row] = np.concatenate([slots, self._places_for(min(place, self._most - place))])
            else:
                self.squeezed += 1
        if bucket > int(slots["bucket"][place]):
            slots[place] = (value, bucket)

    def totals(self, rows: Ints) -> Ints:
        """Of each group's window."""
        first = self._clock.ends(rows) - self._clock.span
        return np.array(
            [0 if (slots := self._slots[row]) is None else np.count_nonzero(slots["bucket"] > begin)
             for row, begin in zip(rows.tolist(), first.tolist(), strict=True)],
            np.int64,
        )  # fmt: skip

    def clear(self, rows: Ints) -> None:
        """These rows are no groups any more."""
        for row in rows.tolist():
            slots = self._slots[row]
            self._places -= 0 if slots is None else len(slots)
            self._slots[row] = None

    def _places_for(self, count: int) -> np.ndarray[Any, np.dtype[np.void]]:
        made = np.zeros(min(count, self._most), _SLOT)
        made["bucket"] = _NONE
        self._places += len(made)
        return made
