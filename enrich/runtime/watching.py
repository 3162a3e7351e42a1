"""Exports how current the cluster's index is, as metrics of both services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Watched(Protocol):
    """The part of :class:`enrich.sources.source.Source` that the metrics read."""

    def age_s(self) -> dict[str, float]: ...

    def refused(self) -> list[str]: ...

    def kept(self) -> dict[str, str]: ...


class SourceCollector(Collector):
    """Reads a source at each scrape. ``service`` is a part of the metrics' names: probe or streams."""

    def __init__(self, service: str, source: Watched) -> None:
        self._service, self._source = service, source

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        age = GaugeMetricFamily(
            f"kubeweir_{self._service}_watch_age_seconds",
            "Seconds since the API server last sent anything about a kind; it sends a bookmark every minute",
            labels=["kind"],
        )
        for kind, seconds in self._source.age_s().items():
            age.add_metric([kind], seconds)
        yield age
        yield GaugeMetricFamily(
            f"kubeweir_{self._service}_refused_objects",
            "Objects that the API server has and this program cannot parse",
            value=len(self._source.refused()),
        )
        yield GaugeMetricFamily(
            f"kubeweir_{self._service}_kept_policies",
            "Policies that stay in force although the API server does not have them or does not serve their kind",
            value=len(self._source.kept()),
        )


def oldest_age_s(source: Watched) -> float | None:
    """Return the age of the kind that the API server was silent about for longest; None for a source of files."""
    return max(source.age_s().values(), default=None)


def kept_notes(source: Watched) -> list[str]:
    """Return a line of /readyz for each policy that is kept."""
    return [f"kept in force: {name}: {why}" for name, why in sorted(source.kept().items())]
