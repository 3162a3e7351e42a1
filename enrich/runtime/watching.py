"""Exports how current the cluster's index is, as metrics of both services."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from enrich.runtime.last_success import LastSuccess


class Watched(Protocol):
    """The part of :class:`enrich.sources.source.Source` that the metrics read."""

    def age_s(self) -> dict[str, float]: ...

    def refused(self) -> list[str]: ...

    def kept(self) -> dict[str, str]: ...


class WatchedCluster(Protocol):
    """The part of :class:`enrich.index.cluster.Cluster` that says whether everything was listed."""

    @property
    def synced(self) -> threading.Event: ...

    def missing(self) -> Sequence[str]: ...


class Watch(Protocol):
    """The part of :class:`enrich.sources.source.Source` that says what is wrong with it."""

    def problem(self) -> str | None: ...


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


def export_watch(registry: CollectorRegistry, source: Watched, last_success: LastSuccess) -> None:
    """Export the metrics of a source of weir-streams, and its age among those of what last worked."""
    registry.register(SourceCollector("streams", source))
    last_success.read("watch", partial(oldest_age_s, source))


def watch_problem(cluster: WatchedCluster, source: Watch) -> str | None:
    """Return why the index of the cluster is not current, or None."""
    problem = source.problem()
    if not cluster.synced.is_set():
        cause = f" ({problem})" if problem else ""
        return f"the API server has not listed yet: {', '.join(cluster.missing())}{cause}"
    return problem


def oldest_age_s(source: Watched) -> float | None:
    """Return the age of the kind that the API server was silent about for longest; None for a source of files."""
    return max(source.age_s().values(), default=None)


def kept_notes(source: Watched) -> list[str]:
    """Return a line of /readyz for each policy that is kept."""
    return [f"kept in force: {name}: {why}" for name, why in sorted(source.kept().items())]
