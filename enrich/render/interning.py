"""Interning: equal values are stored once and numbered.

A column of numbers is faster to make, to select from and to compare than a column of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")
Int64Array = np.ndarray[Any, np.dtype[np.int64]]


class InternTable(Generic[T]):
    """Values by number. The table only grows, so a number stands for one value for ever."""

    def __init__(self) -> None:
        self._values = np.empty(64, object)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: T) -> int:
        """Add a value and return its number. The caller knows that it is new."""
        number = self._count
        if number == len(self._values):
            self._values = np.concatenate([self._values, np.empty(number, object)])
        self._values[number] = value
        self._count = number + 1
        return number

    def __getitem__(self, number: int) -> T:
        value: T = self._values[number]
        return value

    def of(self, numbers: Int64Array) -> list[T]:
        """Return the value of each number."""
        values: list[T] = self._values[numbers].tolist()
        return values


class InternMap(Generic[T]):
    """Maps the values of a table to integers that are not negative, by a function that is called once for each value.

    A value is mapped when it is first asked for. A table that has been replaced by another is detected, and its values
    are mapped again."""

    def __init__(self, function: Callable[[Sequence[T]], Int64Array]) -> None:
        self._function = function
        self._table: InternTable[T] | None = None
        self._mapped = np.empty(0, np.int64)

    def of(self, table: InternTable[T], numbers: Int64Array) -> Int64Array:
        """Return the integer of each numbered value."""
        if table is not self._table:
            self._table, self._mapped = table, np.empty(0, np.int64)
        if len(table) > len(self._mapped):
            more = np.full(len(table) + len(table) // 4 - len(self._mapped), -1)
            self._mapped = np.concatenate([self._mapped, more])
        mapped: Int64Array = self._mapped[numbers]
        if len(mapped) and mapped.min() < 0:
            new = np.unique(numbers[mapped < 0])
            self._mapped[new] = self._function(table.of(new))
            mapped = self._mapped[numbers]
        return mapped
