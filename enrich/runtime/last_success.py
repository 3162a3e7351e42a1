"""How long ago each kind of call to the outside world last worked: fetches, acknowledged records, commits, the watch.

An age alone proves no fault, because a quiet cluster gives nothing to do. But beside a problem it tells which of the
calls stopped, and when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CALLS: Final[Mapping[str, str]] = {
    "fetch": "records were fetched",
    "produce": "Kafka acknowledged records",
    "write": "the destination of a sink took records",
    "commit": "a group committed offsets",
    "interval": "Kafka acknowledged an address interval",
    "watch": "the API server sent anything about the kind that it was silent about for longest",
}
"""Kinds of calls, and when each has worked."""


class LastSuccess(Collector):
    """The ages of a process. Any thread may call its methods."""

    def __init__(
        self,
        registry: CollectorRegistry,
        service: str,
        calls: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``service`` is a part of the metric's name: probe or streams. ``calls``: those that the process notes."""
        self._service, self._clock = service, clock
        self._started_at = clock()
        self._at: dict[str, float | None] = dict.fromkeys(calls)
        self._ages: dict[str, Callable[[], float | None]] = {}
        registry.register(self)

    def note(self, call: str) -> None:
        """Note that a call has just worked."""
        self._at[call] = self._clock()

    def read(self, call: str, age_s: Callable[[], float | None]) -> None:
        """Take an age from somebody who knows it; None: there is none."""
        self._ages[call] = age_s

    def in_words(self) -> list[str]:
        """Return one line with all ages, or none if nothing is noted."""
        now, parts = self._clock(), []
        for call, at in tuple(self._at.items()):
            parts.append(f"{call} {now - at:.0f} s ago" if at is not None else f"{call} never")
        parts += [f"{call} {age:.0f} s ago" for call, age in self._read()]
        if not parts:
            return []
        return [f"last success: {', '.join(parts)}; the process started {now - self._started_at:.0f} s ago"]

    def collect(self) -> Iterator[Metric]:
        """Yield the ages."""
        calls = sorted({*self._at, *self._ages}, key=list(CALLS).index)
        family = GaugeMetricFamily(
            f"kubeweir_{self._service}_last_success_age_seconds",
            f"Seconds since a call last worked; before the first time, since the start. "
            f"{'. '.join(f'{call}: {CALLS[call]}' for call in calls)}",
            labels=["call"],
        )
        now = self._clock()
        for call, at in tuple(self._at.items()):
            family.add_metric([call], now - (self._started_at if at is None else at))
        for call, age in self._read():
            family.add_metric([call], age)
        yield family

    def _read(self) -> list[tuple[str, float]]:
        return [(call, age) for call, age_s in tuple(self._ages.items()) if (age := age_s()) is not None]
