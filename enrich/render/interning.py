"""Values by number: a column of numbers is quicker to make, to choose from and to compare than one of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")
Int64Array = np.ndarray[Any, np.dtype[np.int64]]


class InternTable(Generic[T]):
    """Grows only: a number means one thing for its life."""

    def __init__(self) -> None:
        self._values = np.empty(64, object)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: T) -> int:
        """The number of a new value."""
        number = self._count
        if number == len(self._values):
            self._values = np.concatenate([self._values, np.empty(number, object)])
        self._values[number] = value
        self._count = number + 1
        return number

    def __getitem__(self, number: int) -> T:
        value: T = self._values[number]
        return value

    def since(self, number: int) -> Sequence[T]:
        """All from this number on."""
        values: list[T] = self._values[number : self._count].tolist()
        return values

    def of(self, numbers: Int64Array) -> list[T]:
        """The value of each."""
        values: list[T] = self._values[numbers].tolist()
        return values


class InternMap(Generic[T]):
    """The kinds of a table's numbers, each looked up once."""

    def __init__(self, kinds_of: Callable[[Sequence[T]], Int64Array]) -> None:
        self._kinds_of = kinds_of
        self._table: InternTable[T] | None = None
        self._kinds = np.empty(0, np.int64)

    def of(self, table: InternTable[T], numbers: Int64Array) -> Int64Array:
        """The kind of each."""
        if table is not self._table:
            self._table, self._kinds = table, np.empty(0, np.int64)
        if len(table) > len(self._kinds):
            self._kinds = np.concatenate([self._kinds, self._kinds_of(table.since(len(self._kinds)))])
        kinds: Int64Array = self._kinds[numbers]
        return kinds
