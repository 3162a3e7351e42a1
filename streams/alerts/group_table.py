"""The groups of a rule, each with a row in the rule's columns, as many as there may be.

Where there is no room for one more, those of which nothing was heard for longest go, some at once; a group that has an
alert never does, nor one that was heard of just now. Where there are no others, the new group is refused. Both are
counted by who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
_FIRST_ROWS: Final = 64


class Groups:
    """Key to row. Keys are the groups' values, joined."""

    def __init__(
        self,
        most: int,
        grow: Callable[[int], None],
        clear: Callable[[Ints], None],
        pinned: Callable[[], Iterable[str]],
    ) -> None:
        """``grow``: there are so many rows; ``clear``: rows are free again; ``pinned``: keys of groups that stay."""
        self._most, self._grow, self._clear, self._pinned = most, grow, clear, pinned
        self._rows: dict[str, int] = {}
        self._keys: list[str | None] = []
        self._free: list[int] = []
        self._heard = np.zeros(0, np.int64)
        self._turn = 0
        self.dropped = 0
        """Groups that went to make room."""

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self) -> None:
        """What is heard of from now on is later than all before."""
        self._turn += 1

    def find(self, key: str) -> int | None:
        """The row of a group that is there."""
        return self._rows.get(key)

    def key(self, row: int) -> str:
        """The group of a row."""
        found = self._keys[row]
        assert found is not None  # noqa: S101 - rows of groups only
        return found

    def row(self, key: str) -> int | None:
        """The row of a group, which is heard of now; None: there is no room."""
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._most:
                self._make_room()
            if len(self._rows) >= self._most:
                return None
            row = self._add(key)
        self._heard[row] = self._turn
        return row

    def _add(self, key: str) -> int:
        if not self._free:
            before = len(self._keys)
            count = min(self._most, max(_FIRST_ROWS, before * 3 // 2))
            self._grow(count)
            self._keys += [None] * (count - before)
            self._heard = np.concatenate([self._heard, np.zeros(count - before, np.int64)])
            self._free = list(range(count - 1, before - 1, -1))
        row = self._free.pop()
        self._rows[key], self._keys[row] = row, key
        return row

    def _make_room(self) -> None:
        """Some at once: to look for those is to look at all."""
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        rows = rows[self._heard[rows] < self._turn]
        rows = np.setdiff1d(rows, [row for key in self._pinned() if (row := self._rows.get(key)) is not None])
        count = min(len(rows), max(1, self._most // 50))
        if not count:
            return
        oldest = rows[np.argpartition(self._heard[rows], count - 1)[:count]]
        self._clear(oldest)
        for row in oldest.tolist():
            del self._rows[self.key(row)]
            self._keys[row] = None
            self._free.append(row)
        self.dropped += count
