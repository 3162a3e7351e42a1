"""Metrics of a role's progress, measured at the broker, and the ages of what last worked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Call = Literal["fetch", "produce", "commit"]
_TEXT: Final = "Seconds since records were last fetched, acknowledged by Kafka (produce), or committed; absent before"


class ProgressMetrics(Collector):
    """The gauges of one role."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
        self._at: dict[Call, float] = {}
        registry.register(self)

    def note(self, call: Call) -> None:
        """Note that a call has just worked. Any thread may call it."""
        self._at[call] = time.monotonic()

    def set_lag(self, group: str, records: int, seconds: float) -> None:
        """Export how far a group is behind."""
        self._lag_records.labels(group).set(records)
        self._lag_seconds.labels(group).set(seconds)

    def forget(self, group: str) -> None:
        """Stop exporting the lag of a group."""
        for gauge in (self._lag_records, self._lag_seconds):
            with contextlib.suppress(KeyError):  # it was never measured
                gauge.remove(group)

    def collect(self) -> Iterator[Metric]:
        """Yield the ages."""
        family = GaugeMetricFamily("kubeweir_streams_last_success_age_seconds", _TEXT, labels=["call"])
        now = time.monotonic()
        for call, at in tuple(self._at.items()):
            family.add_metric([call], now - at)
        yield family
