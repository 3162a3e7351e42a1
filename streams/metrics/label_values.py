"""Bounds values that come from records, each of which makes a time series, a group or an entry that stays.

Whoever may write to a topic chooses them, and may choose a new one in every record. So the first ones stay as they
are, and all later ones share one value, which no object of Kubernetes and no reason of ours can be called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

VerdictsBy = Literal["none", "namespace", "workload"]
"""The labels of the subject that verdicts are counted by, beside what was decided. ``workload`` has the label of the
namespace too."""
OTHER: Final = "_other"
"""What stands for every value over the limit."""


class LabelValues:
    """The values that stay as they are: the known ones, and the first ``limit`` others."""

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit, self._known = limit, frozenset(known)
        self._own: set[tuple[str, ...]] = set()

    def of(self, value: str) -> str:
        """Return the value, or what stands for it."""
        return value if value in self._known else self.of_all((value,))[0]

    def of_all(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return some values that belong together, or what stands for them."""
        if values not in self._own:
            if len(self._own) >= self._limit:
                return (OTHER,) * len(values)
            self._own.add(values)
        return values
