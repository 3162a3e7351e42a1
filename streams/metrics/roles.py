"""The counters of a role. One registry a process, made where the process is put together.

Names and units are as Prometheus' documentation has them (https://prometheus.io/docs/practices/naming/). A counter of
errors is there before the first error, with each reason that is known: else no rule could see it come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from streams.metrics.verdicts import By, Verdicts

DEAD_LETTER_REASONS: Final = (
    "no_value", "no_header", "bad_header", "unknown_version", "wrong_length", "foreign_cluster", "wrong_node",
    "enrich_failed", "refused",
)  # fmt: skip
"""Why a batch or a record of one is sent to the dead-letter topic."""
_LOSSES: Final = ("ring_full", "deny_windows_full", "spool_full", "refused")
"""Reasons that probes have for losses, as far as this version knows; a newer probe may have more."""


class EnrichMetrics:
    """What the enricher counts. ``by`` and ``most``: see :class:`streams.metrics.verdicts.Verdicts`."""

    def __init__(self, registry: CollectorRegistry, by: By = "none", most: int = 0) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"kubeweir_streams_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"kubeweir_streams_{name}", text, labels, registry=registry)

        self.batches = counter("batches", "Batches read from the raw topic")
        self.heartbeats = counter("heartbeats", "Batches without rows: a probe that lives and has nothing to say")
        self.read_verdicts = counter("read_verdicts", "Verdicts in batches that were taken")
        self.verdicts = Verdicts(registry, by, most)
        self.records = counter("records", "Records that Kafka has acknowledged")
        self.dead = counter("dead_letters", "Batches and records sent to the dead-letter topic, by reason", ("reason",))
        self.gap_verdicts = counter("gap_verdicts", "Verdicts missing between two batches of one ring")
        self.lost_verdicts = counter("lost_verdicts", "Verdicts that probes reported as lost, by reason", ("reason",))
        self.expired = counter("expired_batches", "Batches that retention removed before they were read")
        self.retried = counter("retried_records", "Records tried again alone, after a broker refused their batch")
        self.routed = counter(
            "routed_records",
            "Records that a route took for a topic: routed, or why they have none (no_namespace, not_allowed, limit)",
            ("route", "outcome"),
        )
        self.address_intervals = counter("address_interval_records", "Records read of pods' holds of addresses")
        self.bad_address_intervals = counter(
            "bad_address_interval_records", "Records of pods' holds that were not understood"
        )
        self.pending_verdicts = counter(
            "pending_verdicts",
            "Verdicts that waited for the cluster's index: until it was settled, as long as they may (late), or until "
            "too much waited (full)",
            ("outcome",),
        )
        self.pending_bytes = gauge("pending_bytes", "Bytes of verdicts that wait for the cluster's index")
        self.in_flight_verdicts = gauge(
            "in_flight_verdicts", "Verdicts read whose records Kafka has not acknowledged yet"
        )
        self.in_flight_bytes = gauge("in_flight_bytes", "Bytes of batches whose records Kafka has not acknowledged yet")
        self.lag = gauge("lag_batches", "Batches in the raw topic that are not acknowledged yet", ("partition",))
        for labelled, values in (
            (self.dead, DEAD_LETTER_REASONS),
            (self.lost_verdicts, _LOSSES),
            (self.pending_verdicts, ("settled", "late", "full")),
        ):
            for value in values:
                labelled.labels(value)


class AlertMetrics:
    """What the role of alerts counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counted = Counter(
            "kubeweir_streams_alerts_counted",
            "Records of denied connections and losses (records), those of them that were delivered before (repeats), "
            "deltas made from them, and values that could not be decoded (bad_records, bad_deltas)",
            ("what",),
            registry=registry,
        )
        self.events = Counter(
            "kubeweir_streams_alerts_events",
            "Events that may make an alert of a rule miss records: records too old for the window (late), groups "
            "evicted or refused because there are more than WEIR_ALERT_GROUPS (evicted_groups, refused_groups), "
            "distinct values evicted (evicted_values), deltas of another version of the rule (stale)",
            ("rule", "what"),
            registry=registry,
        )
        self.restarts = Counter(
            "kubeweir_streams_alerts_restarts",
            "Restarts of a half from the last commit, because a transaction failed or the rules changed",
            ("half",),
            registry=registry,
        )
        self.lag = Gauge(
            "kubeweir_streams_alerts_lag_records",
            "Records in its input topics that a half has not processed yet",
            ("half",),
            registry=registry,
        )
        self._registry = registry

    def watch(self, look: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]]) -> None:
        """``look``: groups and firing alerts, by rule, here and now."""
        self._registry.register(_AlertCollector(look))


class _AlertCollector(Collector):
    def __init__(self, look: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Two families."""
        groups, firing = self._look()
        for name, text, found in (
            ("groups", "Groups of a rule in memory of this worker", groups),
            ("firing", "Firing alerts of a rule, of the groups of this worker", firing),
        ):
            family = GaugeMetricFamily(f"kubeweir_streams_alerts_{name}", text, labels=["rule"])
            for rule, number in found.items():
                family.add_metric([rule], number)
            yield family


class SinkMetrics:
    """What sinks count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"kubeweir_streams_sink_{name}", text, ("sink",), registry=registry)

        self.records = counter("records", "Records that the far end has")
        self.failures = counter("failures", "Failed writes, each tried again")
        self.refused = counter("refused", "Records that the far end refuses for good, sent to the dead-letter topic")
        self.suppressed = Counter(
            "kubeweir_streams_sink_suppressed_records",
            "Records that made no Event of their own: repeated, rate (too many), old, or without a pod (no_pod)",
            ("sink", "reason"),
            registry=registry,
        )
        self.lag = Gauge(
            "kubeweir_streams_sink_lag_records", "Records of its topic that are not committed yet", ("sink",),
            registry=registry,
        )  # fmt: skip

    def begin(self, sink: str) -> None:
        """A sink starts: its counters are there before the first error."""
        for labelled in (self.records, self.failures, self.refused):
            labelled.labels(sink)

    def end(self, sink: str) -> None:
        """A sink has ended: nothing is behind any more. Its counts stay."""
        self.lag.remove(sink)
