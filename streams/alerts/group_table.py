"""A bounded table of a rule's groups, each with a row in the rule's columns.

THEORY OF OPERATION

The limit is WEIR_ALERT_GROUPS, say 100,000. When group 100,001 appears:

1. Candidates for eviction are all groups except those that are pinned (they have an alert) and those used by the batch
   of deltas that is being processed.
2. The least recently used 2 % of the limit (2,000 groups) are evicted at once, because finding the oldest means looking
   at all of them: doing so for each new group of a flood would be quadratic.
3. Their rows are cleared in every column and reused.
4. If there are no candidates, the new group is refused.

Callers count evictions (:attr:`GroupTable.evicted`) and refusals: either makes an alert possibly missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
_INITIAL_ROWS: Final = 64


class GroupTable:
    """Maps a key to a row. A key is the group's values, joined."""

    def __init__(
        self,
        limit: int,
        grow: Callable[[int], None],
        clear: Callable[[Ints], None],
        pinned: Callable[[], Iterable[str]],
    ) -> None:
        """``grow`` is called with the new number of rows, ``clear`` with rows that were evicted; ``pinned`` returns the
        keys that must not be evicted."""
        self._limit, self._grow, self._clear, self._pinned = limit, grow, clear, pinned
        self._rows: dict[str, int] = {}
        self._keys: list[str | None] = []
        self._free: list[int] = []
        self._last_used = np.zeros(0, np.int64)
        """The batch in which each row was last used."""
        self._batch = 0
        self.evicted = 0
        """Groups evicted since the start."""

    def __len__(self) -> int:
        return len(self._rows)

    def start_batch(self) -> None:
        """Begin a batch of uses. Groups used in the same batch do not evict each other."""
        self._batch += 1

    def find(self, key: str) -> int | None:
        """Return the row of a group, without counting as a use; None if the group is not in the table."""
        return self._rows.get(key)

    def key(self, row: int) -> str:
        """Return the key of the group in a row that is in use."""
        found = self._keys[row]
        assert found is not None  # noqa: S101 - callers pass rows in use only
        return found

    def use(self, key: str) -> int | None:
        """Return the row of a group, adding the group if necessary; None if the table is full and nothing can go."""
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._limit:
                self._evict()
            if len(self._rows) >= self._limit:
                return None
            row = self._add(key)
        self._last_used[row] = self._batch
        return row

    def _add(self, key: str) -> int:
        if not self._free:
            before = len(self._keys)
            count = min(self._limit, max(_INITIAL_ROWS, before * 3 // 2))
            self._grow(count)
            self._keys += [None] * (count - before)
            self._last_used = np.concatenate([self._last_used, np.zeros(count - before, np.int64)])
            self._free = list(range(count - 1, before - 1, -1))
        row = self._free.pop()
        self._rows[key], self._keys[row] = row, key
        return row

    def _evict(self) -> None:
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        rows = rows[self._last_used[rows] < self._batch]
        rows = np.setdiff1d(rows, [row for key in self._pinned() if (row := self._rows.get(key)) is not None])
        count = min(len(rows), max(1, self._limit // 50))
        if not count:
            return
        oldest = rows[np.argpartition(self._last_used[rows], count - 1)[:count]]
        self._clear(oldest)
        for row in oldest.tolist():
            del self._rows[self.key(row)]
            self._keys[row] = None
            self._free.append(row)
        self.evicted += count
