"""The metrics of the CNI plugin's requests."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from probe.cni.requests import Requests


class CniCollector(Collector):
    """Metrics of the requests, read at each scrape."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        total = CounterMetricFamily(
            "kubeweir_probe_cni_requests",
            "Requests of the CNI plugin, by command and by result: ok, let_through (the pod starts without policy), "
            "try_again_later, refused",
            labels=["command", "result"],
        )
        for (command, result), count in sorted(self._requests.counts.items()):
            total.add_metric([command, result], count)
        yield total
        seconds = CounterMetricFamily(
            "kubeweir_probe_cni_seconds",
            "Seconds that answers to the CNI plugin took; divided by the requests, what a pod's start is delayed by",
            labels=["command"],
        )
        for command, taken in sorted(self._requests.seconds.items()):
            seconds.add_metric([command], taken)
        yield seconds
