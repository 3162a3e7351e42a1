"""Prometheus metrics of the tables that pods share: what each pod uses. A pod that is gone has none any more."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from probe.kernel.budgets import used_by_endpoint
from probe.kernel.maps import Maps
from probe.ledger import Ledger


class ShareCollector(Collector):
    """Reads the budgets of the kernel at each scrape."""

    def __init__(self, maps: Maps, ledger: Ledger) -> None:
        self._maps, self._ledger = maps, ledger

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now. Pods with nothing to report are left out."""
        borrowed = GaugeMetricFamily(
            "kubeweir_probe_borrowed_connections",
            "Connections of a pod beyond those that are reserved for it",
            labels=["namespace", "pod"],
        )
        evictions = CounterMetricFamily(
            "kubeweir_probe_connection_evictions",
            "Connections of a pod that were evicted before they expired, because it has used up its share",
            labels=["namespace", "pod"],
        )
        for number, used in used_by_endpoint(self._maps).items():
            pod = self._ledger.meaning("endpoint", number)
            if pod is None:
                continue
            names = [pod["namespace"], pod["pod"]]
            if used.borrowed:
                borrowed.add_metric(names, used.borrowed)
            if used.evicted:
                evictions.add_metric(names, used.evicted)
        yield borrowed
        yield evictions
