"""Measures the node's clock against the brokers'.

Theory of operation. The raw topic has the brokers' time on each record (LogAppendTime), and a broker's answer to a
batch says it. An example:

1. The probe hands a batch to librdkafka when its monotonic clock shows 100.000 s.
2. The answer comes at 100.020 and says 12:00:01.007, which has no fractions of a millisecond.
3. So when the brokers' clock was between 1.007 and 1.008, the monotonic clock was between 100.000 and 100.020.
4. The node's wall clock shows 12:00:05.020 at 100.020. It is 3.992 s to 4.013 s ahead, that is 4.0025 s, 0.0105 s more
   or less.

Each answer gives such bounds, and all of them are true, so what they have in common counts. Bounds get wider with
time, because clocks drift. If the bounds of an answer have nothing in common with those before (the node was suspended,
or the brokers' clocks differ), the new ones count alone. Since the brokers' clocks are compared with the monotonic one,
which is never set, a step of the wall clock is followed at once.

The published offset changes only when it is wrong by more than its uncertainty, so that it does not change with each
batch. All brokers count as one clock, by which the times of all nodes are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME

from enrich.wire.clock_skew import Skew, correction_ns, is_absurd
from probe.export.batcher import clock_offset_ns
from probe.export.delivery_reports import OnAnswer

_MS: Final = 1_000_000
_DRIFT: Final = 0.0002
"""By how much a clock may gain on another: NTP takes no more than 500 ppm away, and quartz is off by 100."""
_STABLE_NS: Final = 50 * _MS
"""A change of the offset by less is not published."""


class BrokerClock:
    """The offset of the node's clock. One thread measures; any may read."""

    def __init__(
        self, now_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._now_ns, self._monotonic_ns = now_ns, monotonic_ns
        self._bounds: tuple[int, int, int] | None = None
        """By how much the monotonic clock is ahead of the brokers', at least and at most, and when that was measured
        by the monotonic clock; None before the first answer."""
        self._published: Skew | None = None

    def measure(self) -> Skew | None:
        """Return the offset of the wall clock now; None before the first answer."""
        if self._bounds is None:
            return None
        low, high, _ = self._bounds
        monotonic_ahead = (low + high) // 2
        return clock_offset_ns(self._now_ns, self._monotonic_ns) + monotonic_ahead, (high - low + 1) // 2

    @property
    def skew(self) -> Skew | None:
        """The offset that batches and address intervals state."""
        found, before = self.measure(), self._published
        if found is not None:
            offset, uncertainty = found
            if before is None or abs(offset - before[0]) > uncertainty + _STABLE_NS or 2 * uncertainty < before[1]:
                self._published = found
        return self._published

    @property
    def offset_s(self) -> float:
        """The offset in seconds; 0 before the first answer."""
        return (self.measure() or (0, 0))[0] / 1e9

    @property
    def uncertainty_s(self) -> float:
        """By how much more or less it may be; 0 before the first answer."""
        return (self.measure() or (0, 0))[1] / 1e9

    def ahead_ns(self) -> int | None:
        """Return what is to be subtracted from the node's times, None before the first answer."""
        skew = self.skew
        return None if skew is None else correction_ns(skew)

    def notes(self) -> list[str]:
        """Say that the clock is wrong, if it is."""
        skew = self.skew
        if skew is None or not (correction_ns(skew) or is_absurd(skew)):
            return []
        what = "too much to be corrected" if is_absurd(skew) else "names of peers are corrected for it, times are not"
        return [f"the node's clock is {skew[0] / 1e9:+.3f} s from the brokers': {what}. Set it by NTP"]

    def measuring(self, on_answer: OnAnswer) -> OnAnswer:
        """Return a delivery callback for a record that is about to be sent, which measures, and then calls another."""
        sent = self._monotonic_ns()

        def timed(error: Any, message: Any) -> None:
            if error is None:
                kind, broker_ms = message.timestamp()
                if kind == TIMESTAMP_LOG_APPEND_TIME:
                    self.note(sent, broker_ms)
            on_answer(error, message)

        return timed

    def note(self, sent_ns: int, broker_ms: int) -> None:
        """Note the brokers' time in an answer that has just arrived. ``sent_ns``: when its record was handed over, by
        the monotonic clock."""
        now = self._monotonic_ns()
        low, high = sent_ns - (broker_ms + 1) * _MS, now - broker_ms * _MS
        if self._bounds is not None:
            before_low, before_high, measured_at = self._bounds
            drifted = int((now - measured_at) * _DRIFT)
            common = max(low, before_low - drifted), min(high, before_high + drifted)
            low, high = common if common[0] <= common[1] else (low, high)
        self._bounds = low, high, now
