"""Says what goes wrong with the counts of pairs: in the log, in metrics, on the status topic and to ``/readyz``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog

from streams.metrics.pairs import PairMetrics

log = structlog.get_logger("kubeweir.streams")

_MAX_ERROR: Final = 1_000
_MAX_BACKOFF_S: Final = 60.0


class PairReports:
    """What is said of one worker's counts, on its event loop."""

    def __init__(self, metrics: PairMetrics, report: Callable[[dict[str, Any]], None]) -> None:
        """``report`` sends a record to the status topic."""
        self.problem: str | None = None
        """Why pairs are not counted, or counts not written, if so."""
        self._metrics, self._report = metrics, report
        self._failures = 0
        self._has_bug = False

    @property
    def backoff_s(self) -> float:
        """How long to wait before the next write."""
        return min(2.0 ** min(self._failures, 6), _MAX_BACKOFF_S) if self._failures else 0.0

    def on_success(self) -> None:
        """Note that Kafka has answered."""
        self._failures, self.problem = 0, None

    def on_problem(self, problem: str, *, is_counting: bool) -> None:
        """Say why something failed, once for each problem."""
        self._failures += 1
        self._metrics.failed_writes.inc()
        text = f"pairs are {'counted, but not written' if is_counting else 'not counted'}: {problem}"
        if text != self.problem:
            log.error("counts of pairs cannot be written; trying again", error=problem)
            self._report({"type": "pairs_failed", "error": problem[:_MAX_ERROR]})
        self.problem = text

    def on_uncounted(self, verdicts: int, error: Exception) -> None:
        """Say that verdicts could not be counted. This is a bug: it costs counts, and must not cost records."""
        self._metrics.missed.labels("failed").inc(verdicts)
        if not self._has_bug:
            log.error("pairs could not be counted", exc_info=error)
        self._has_bug = True

    def on_missed(self, partition: int, batches: int) -> None:
        """Say that batches of a partition are in no pair, if there are any."""
        if not batches:
            return
        self._metrics.missed_batches.inc(batches)
        log.error("batches are not counted in pairs", partition=partition, batches=batches)
        self._report({"type": "pairs_missed", "partition": partition, "batches": batches})
