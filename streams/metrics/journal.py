"""The metrics of the role `journal`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class JournalMetrics:
    """Metrics of the role `journal`."""

    def __init__(self, registry: CollectorRegistry, sorts: Iterable[str]) -> None:
        """``sorts``: of entries."""

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"kubeweir_streams_journal_{name}", text, labels, registry=registry)

        self.entries = counter(
            "entries",
            "Entries that this worker has written. version: a state of an object. gone: its end. refused: a state that "
            "is outside the bounds of an entry and not known to readers. repeat: a state that "
            "retention would remove. gap: the journal was not written before, or the API server could not be watched. "
            "heartbeat: nothing has changed",
            ("sort",),
        )
        for sort in sorts:
            self.entries.labels(sort)
        self.refused = counter(
            "refused_states",
            "States of objects and profiles that are outside the bounds of an entry: readers know only that they exist",
        )
        self.bad = counter(
            "bad_entries",
            "Records of the journal that are not entries, or that this worker did not write; dead letters",
        )
        self.restarts = counter(
            "restarts", "Restarts of the loop from its last commit: a transaction was aborted", ("loop",)
        )
        self.lag = Gauge(
            "kubeweir_streams_journal_lag_records",
            "Records of the journal that its group has not read back yet",
            ("loop",),
            registry=registry,
        )
        self._registry = registry

    def watch(self, read: Callable[[], tuple[float | None, int]]) -> None:
        """Export what ``read`` returns at each scrape: how many seconds ago the journal was complete, None if another
        worker writes it; and how many objects it says exist."""
        self._registry.register(_JournalCollector(read))


class _JournalCollector(Collector):
    def __init__(self, read: Callable[[], tuple[float | None, int]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        behind_s, states = self._read()
        yield GaugeMetricFamily(
            "kubeweir_streams_journal_writer",
            "1 if this worker writes the journal: one of all workers of a cluster does",
            value=int(behind_s is not None),
        )
        behind = GaugeMetricFamily(
            "kubeweir_streams_journal_behind_seconds",
            "Seconds since everything that the API server had published was in the journal, of the worker that writes",
        )
        found = GaugeMetricFamily(
            "kubeweir_streams_journal_states",
            "Objects and profiles that exist, as the journal says, of the worker that writes it",
        )
        if behind_s is not None:
            behind.add_metric([], behind_s)
            found.add_metric([], states)
        yield behind
        yield found
