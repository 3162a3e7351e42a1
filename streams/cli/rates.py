"""Rates of what arrives, by groups: what `weir top` shows.

Time is divided into ticks. A group has a count for each of the last ticks, so a rate is a sum divided by a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from streams.cli import columns
from streams.cli.columns import OTHERS

TICKS: Final = 30
"""The ticks that a rate is of, and the bars of a row."""
_MAX_GROUPS: Final = 10_000
"""Groups that are counted each; further ones are counted together."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = "_.-=+*%#"
"""Bars for a terminal that does not show the others."""


class Rate(NamedTuple):
    """One group at one moment. Rates are per second."""

    group: tuple[str, ...]
    records: float
    denied: float
    """Records with the verdict deny or audit."""
    ticks: Sequence[int]
    """The records of each tick, the latest last."""


class _Group:
    __slots__ = ("denied", "records")

    def __init__(self) -> None:
        self.records: deque[int] = deque([0], TICKS)
        self.denied: deque[int] = deque([0], TICKS)


class Rates:
    """Counts what arrives."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = _MAX_GROUPS) -> None:
        self._clock, self._most = clock, most
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._others = _Group()
        self._begins: deque[float] = deque([clock()], TICKS)
        """When each tick began: on a busy machine, one is longer than another."""

    @property
    def window_s(self) -> float:
        """The time that rates are of."""
        return max(self._clock() - self._begins[0], 1e-3)

    def add(self, group: Sequence[str], *, is_denied: bool) -> None:
        """Count one record in this tick."""
        key = tuple(group)
        found = self._groups.get(key)
        if found is None:
            found = self._groups.setdefault(key, _Group()) if len(self._groups) < self._most else self._others
        found.records[-1] += 1
        found.denied[-1] += is_denied

    def next_tick(self) -> None:
        """End this tick, and forget the groups of which nothing has arrived in all ticks."""
        self._begins.append(self._clock())
        self._groups = {key: one for key, one in self._groups.items() if any(one.records)}
        for one in (*self._groups.values(), self._others):
            one.records.append(0)
            one.denied.append(0)

    def highest(self, most: int) -> list[Rate]:
        """Return the groups with the most records, and behind them what is counted together."""
        heard = [(key, one) for key, one in self._groups.items() if any(one.records)]
        found = sorted(heard, key=lambda pair: (-sum(pair[1].records), pair[0]))[:most]
        rates = [self._rate(key, one) for key, one in found]
        return [*rates, self._rate((OTHERS,), self._others)] if any(self._others.records) else rates

    def total(self) -> Rate:
        """Return the rates of all groups together."""
        together = _Group()
        for name in ("records", "denied"):
            counts = [[0] * TICKS]
            for one in (*self._groups.values(), self._others):
                ticks = list(getattr(one, name))
                counts.append([0] * (TICKS - len(ticks)) + ticks)
            setattr(together, name, deque((sum(column) for column in zip(*counts, strict=True)), TICKS))
        return self._rate((), together)

    def __len__(self) -> int:
        return len(self._groups)

    def _rate(self, group: tuple[str, ...], one: _Group) -> Rate:
        ticks = [0] * (TICKS - len(one.records)) + list(one.records)
        window_s = self.window_s
        return Rate(group, sum(one.records) / window_s, sum(one.denied) / window_s, ticks)


def bars(ticks: Sequence[int], *, is_plain: bool = False) -> str:
    """Return a bar for each tick, the highest for the highest count; a space for none."""
    signs, highest = _PLAIN_BARS if is_plain else _BARS, max(ticks, default=0)
    return "".join(signs[(count * len(signs) - 1) // highest] if count else " " for count in ticks)


def as_object(names: Sequence[str], rate: Rate) -> dict[str, Any]:
    """Return a group as a JSON object."""
    is_rest = rate.group == (OTHERS,)
    fields = dict.fromkeys(names) if is_rest else columns.as_object(names, rate.group)
    numbers = {"per_s": round(rate.records, 3), "denied_per_s": round(rate.denied, 3), "ticks": list(rate.ticks)}
    return {**fields, **({"others": True} if is_rest else {}), **numbers}
