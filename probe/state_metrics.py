"""The Prometheus metric of damaged files that an earlier process has left on disk."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from enrich.runtime.state_file import damaged_files


class StateCollector(Collector):
    """Reads the counts at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metric."""
        damaged = CounterMetricFamily(
            "kubeweir_probe_damaged_state_files",
            "Files of an earlier process that could not be read and were set aside, by what they hold; the log says "
            "what follows",
            labels=["holds"],
        )
        for sort, count in damaged_files().items():
            damaged.add_metric([sort], count)
        yield damaged
