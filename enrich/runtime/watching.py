"""How fresh the cluster's index is, as metrics that both services have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Watched(Protocol):
    """What is asked; see :class:`enrich.sources.source.Source`."""

    def age_s(self) -> dict[str, float]: ...

    def refused(self) -> list[str]: ...


class SourceCollector(Collector):
    """Reads a source when it is asked. ``service``: what the metrics' names begin with."""

    def __init__(self, service: str, source: Watched) -> None:
        self._service, self._source = service, source

    def collect(self) -> Iterator[Metric]:
        """Two families."""
        age = GaugeMetricFamily(
            f"kubeweir_{self._service}_watch_age_seconds",
            "Since the API server was last heard of, by kind; it says something each minute",
            labels=["kind"],
        )
        for kind, seconds in self._source.age_s().items():
            age.add_metric([kind], seconds)
        yield age
        yield GaugeMetricFamily(
            f"kubeweir_{self._service}_refused_objects",
            "Objects that the API server holds and that are not understood",
            value=len(self._source.refused()),
        )
