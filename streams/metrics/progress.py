"""Metrics of a role's progress, measured at the broker, and the ages of what last worked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from enrich.runtime.last_success import LastSuccess

CALLS_OF_ALERTS: Final = ("fetch", "produce", "write", "commit")
CALLS_OF_HUBBLE: Final = ("fetch",)
CALLS_OF_JOURNAL: Final = ("fetch", "produce", "commit")
CALLS_OF_SINKS: Final = ("fetch", "write", "commit")


class ProgressMetrics:
    """The gauges of one role."""

    def __init__(self, registry: CollectorRegistry, calls: Iterable[str] = ("fetch", "produce", "commit")) -> None:
        """``calls``: what the role does."""
        self._lag_records = Gauge(
            "kubeweir_streams_group_lag_records",
            "Records in this worker's partitions that a consumer group has not committed, as the broker says",
            ("group",),
            registry=registry,
        )
        self._lag_seconds = Gauge(
            "kubeweir_streams_group_lag_seconds",
            "Seconds that the oldest of these records has waited, at least; counted from this worker's start",
            ("group",),
            registry=registry,
        )
        self.last_success = LastSuccess(registry, "streams", calls)

    def note(self, call: str) -> None:
        """Note that a call has just worked. Any thread may call it."""
        self.last_success.note(call)

    def set_lag(self, group: str, records: int, seconds: float) -> None:
        """Export how far a group is behind."""
        self._lag_records.labels(group).set(records)
        self._lag_seconds.labels(group).set(seconds)

    def forget(self, group: str) -> None:
        """Stop exporting the lag of a group."""
        for gauge in (self._lag_records, self._lag_seconds):
            with contextlib.suppress(KeyError):  # it was never measured
                gauge.remove(group)
