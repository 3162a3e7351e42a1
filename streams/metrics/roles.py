"""The metrics of each role. There is one registry per process, made where the process is put together.

Names and units follow Prometheus' conventions (https://prometheus.io/docs/practices/naming/). Every known label value
exists from the start with the value 0: ``increase()`` over a series that appears with its first error shows 0, and an
alert rule would miss that error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from enrich.wire.cuts import KINDS, LIMIT, Cut
from streams.metrics.label_values import LabelValues, VerdictsBy
from streams.metrics.pairs import PairMetrics
from streams.metrics.progress import ProgressMetrics
from streams.metrics.verdicts import VerdictCounter

DEAD_LETTER_REASONS: Final = (
    "no_value", "no_header", "bad_header", "unknown_version", "wrong_length", "wrong_node",
    "enrich_failed", "refused", "bad_verdict", "too_large", "damaged",
)  # fmt: skip
"""Why the enricher sends a batch, or a record made from one, to the dead-letter topic."""
LOSS_REASONS: Final = ("ring_full", "deny_windows_full", "spool_full", "refused", "enrich_failed")
"""Why verdicts are lost, as far as this version knows. A newer probe may report further reasons, of which the first
ones get a label of their own (:class:`streams.worker.losses.Losses`)."""
ENDS_LOSS_REASONS: Final = (
    "ring_full", "no_place", "uncertain", "spool_full", "refused", "gap", "unknown_end", "unknown_verdict", "bad_time",
    "unreadable",
)  # fmt: skip
"""Why reports of connections are lost or left out."""
_MAX_NAMESPACES: Final = 100
"""Namespaces with a label of their own, of verdicts that a limit has cut."""


class EnrichMetrics:
    """Metrics of the role `enrich`. ``by`` and ``limit``: see :class:`streams.metrics.verdicts.VerdictCounter`."""

    def __init__(self, registry: CollectorRegistry, by: VerdictsBy = "none", limit: int = 0) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"kubeweir_streams_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"kubeweir_streams_{name}", text, labels, registry=registry)

        self.progress = ProgressMetrics(registry)
        self.pairs = PairMetrics(registry)
        self.batches = counter("batches", "Batches read from the raw topic")
        self.heartbeats = counter("heartbeats", "Batches without verdicts: a probe is alive and has nothing to report")
        self.read_verdicts = counter("read_verdicts", "Verdicts made into records")
        self.verdicts = VerdictCounter(registry, by, limit)
        self.records = counter("records", "Records that Kafka has acknowledged, over all topics")
        self._add_losses(counter)
        self._add_further_topics(counter)
        self.pending_verdicts = counter(
            "pending_verdicts",
            "Verdicts that waited for the cluster's index. settled: until both ends were known. late: as long as "
            "WEIR_ATTRIBUTION_WAIT allows. full: until more than WEIR_PENDING_BYTES waited",
            ("outcome",),
        )
        self.pending_bytes = gauge("pending_bytes", "Bytes of verdicts that wait for the cluster's index now")
        self.in_flight_verdicts = gauge(
            "in_flight_verdicts", "Verdicts that were read, and whose records Kafka has not all acknowledged yet"
        )
        self.in_flight_bytes = gauge(
            "in_flight_bytes", "Bytes of batches that were read, and whose records Kafka has not all acknowledged yet"
        )
        self.clock_offset = gauge(
            "clock_offset_seconds",
            "By how much a node's clock is ahead of the brokers', as its probe says, if that is corrected",
            ("node",),
        )
        self.lag = gauge("lag_batches", "Batches in a partition of the raw topic not acknowledged yet", ("partition",))
        for labelled, values in (
            (self.dead_letters, DEAD_LETTER_REASONS),
            (self.lost_verdicts, LOSS_REASONS),
            (self.lost_ends, ENDS_LOSS_REASONS),
            (self.pending_verdicts, ("settled", "late", "full")),
            (self.foreign_records, ("batches", "address_intervals")),
            (self.refused_intervals, ("forged_interval",)),
            (self.dropped_intervals, ("node", "index", "open_of_node", "open")),
        ):
            for value in values:
                labelled.labels(value)
        for kind in KINDS:
            self.cut_verdicts.labels(*kind)
        self._namespaces, self._dispositions = LabelValues(_MAX_NAMESPACES), LabelValues(0, ("allow", "deny", "audit"))

    def _add_losses(self, counter: Callable[..., Counter]) -> None:
        """Add what is counted of batches and records that are refused or lost."""
        self.dead_letters = counter(
            "dead_letters", "Batches and records sent to the dead-letter topic, by reason", ("reason",)
        )
        self.lost_dead_letters = counter(
            "lost_dead_letters", "Dead letters that Kafka refused even when they were cut to 64 KiB, and that are lost"
        )
        self.gap_verdicts = counter(
            "gap_verdicts", "Verdicts whose numbers are missing between two batches of a ring: lost without a report"
        )
        self.ends = counter("ended_connections", "Records of reports of connections, on the topic flows.ended")
        self.lost_ends = counter(
            "lost_ends", "Reports of connections that are lost or left out, by reason", ("reason",)
        )
        self.unknown_gaps = counter(
            "unknown_gaps",
            "Times that verdicts may be missing before the first batch of a ring or a partition, because nothing says "
            "what was finished before: see the records gap_unknown of the status topic",
        )
        self.lost_verdicts = counter(
            "lost_verdicts",
            "Verdicts that probes reported as lost, or that could not be enriched (enrich_failed), by reason",
            ("reason",),
        )
        self.cut_verdicts = counter(
            "cut_verdicts",
            "Verdicts that probes did not log on purpose, by logging (NetworkLogging or a setting) or by a limit: "
            "allowed connections; denied packets and audited connections",
            ("by", "class"),
        )
        self.limited_verdicts = counter(
            "limited_verdicts",
            "Verdicts that WEIR_LIMIT_ALLOWED and WEIR_LIMIT_DENIED have cut, by the namespace of the pod whose policy "
            "decided and the disposition, as far as the probe knows them; those of more than "
            f"{_MAX_NAMESPACES} namespaces are under _other",
            ("disposition", "namespace"),
        )
        self.expired_batches = counter(
            "expired_batches", "Batches that retention removed from the raw topic before they were read"
        )
        self.retried_records = counter(
            "retried_records", "Records retried in a batch of their own, because the broker refused their batch"
        )

    def count_cut(self, cut: Cut) -> None:
        """Count what was not logged on purpose."""
        self.cut_verdicts.labels(cut.by, cut.decided).inc(cut.verdicts)
        for part in cut.parts if cut.by == LIMIT else ():
            namespace, disposition = self._namespaces.of(part.namespace), self._dispositions.of(part.disposition)
            self.limited_verdicts.labels(disposition, namespace).inc(part.verdicts)

    def _add_further_topics(self, counter: Callable[..., Counter]) -> None:
        """Add what is counted of the topics of routes, of address intervals, and of other clusters."""
        self.routed_records = counter(
            "routed_records",
            "Records that a route matched. routed: they have a topic. topic_failed: of these, the ones whose topic "
            "cannot be made or written. no_namespace: the topic contains {namespace} and the pod has none. "
            "not_allowed: the route does not allow the namespace. limit: the route would create more topics than it "
            "may. no_form: the topic takes another form, which the record cannot have because of its time",
            ("route", "outcome"),
        )
        self.address_intervals = counter("address_interval_records", "Address intervals read from the endpoints topic")
        self.bad_address_intervals = counter(
            "bad_address_interval_records", "Records of the endpoints topic that could not be decoded, and were skipped"
        )
        self.refused_intervals = counter(
            "refused_address_intervals",
            "Address intervals that were refused. forged_interval: the API server says that the pod runs on another "
            "node, or that the address is somebody else's",
            ("reason",),
        )
        self.dropped_intervals = counter(
            "dropped_address_intervals",
            "Address intervals that have ended, and were dropped before WEIR_POD_RETENTION because there are too many. "
            "node: of one node. index: of all nodes together. open_of_node, open: those that have not ended, of pods "
            "that the API server does not know",
            ("limit",),
        )
        self.refused_clock_offsets = counter(
            "refused_clock_offsets", "Batches whose node says that its clock is wrong by more than a day: not corrected"
        )
        self.foreign_records = counter(
            "foreign_records",
            "Batches and address intervals of other clusters on the same topics, which this worker skips",
            ("what",),
        )


class AlertMetrics:
    """Metrics of the role `alerts`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counted = Counter(
            "kubeweir_streams_alerts_counted",
            "What the count loop has read and made. records: denied flows and losses. repeats: records read before. "
            "deltas: changes of counts sent to the engine loop. bad_records, bad_deltas: not decodable, dead letters. "
            "foreign: records and deltas of other clusters, skipped",
            ("what",),
            registry=registry,
        )
        self.events = Counter(
            "kubeweir_streams_alerts_events",
            "Why an alert of a rule may miss records. late: too old for the window. evicted_groups, refused_groups: "
            "more groups than WEIR_ALERT_GROUPS. evicted_values: more distinct values than fit in memory. "
            "evicted_changes: more changes of policies than fit in memory. stale: deltas counted under another version "
            "of the rule, or (_other) of a rule that this worker does not have. learned: new groups that made no alert "
            "while the rule was new. digested: alerts that did not fire by themselves, and were counted in the rule's "
            "digest",
            ("rule", "what"),
            registry=registry,
        )
        self.restarts = Counter(
            "kubeweir_streams_alerts_restarts",
            "Restarts of a loop (count, engine) from its last commit: a transaction was aborted, or the rules changed",
            ("loop",),
            registry=registry,
        )
        self.lag = Gauge(
            "kubeweir_streams_alerts_lag_records",
            "Records that a loop (count, engine) has not read yet",
            ("loop",),
            registry=registry,
        )
        self._registry = registry

    def watch(self, read: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]]) -> None:
        """Export what ``read`` returns at each scrape: groups and firing alerts of this worker, by rule."""
        self._registry.register(_AlertCollector(read))


class _AlertCollector(Collector):
    def __init__(self, read: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the two gauges."""
        groups, firing = self._read()
        for name, text, by_rule in (
            ("groups", "Groups of a rule in this worker's memory", groups),
            ("firing", "Alerts of a rule that fire now, among the groups of this worker", firing),
        ):
            family = GaugeMetricFamily(f"kubeweir_streams_alerts_{name}", text, labels=["rule"])
            for rule, number in by_rule.items():
                family.add_metric([rule], number)
            yield family


class SinkMetrics:
    """Metrics of sinks, each with the sink's name as a label."""

    def __init__(self, registry: CollectorRegistry, note: Callable[[str], None] = lambda _: None) -> None:
        """``note`` is called when a destination has taken records."""
        self._note = note

        def counter(name: str, text: str) -> Counter:
            return Counter(f"kubeweir_streams_sink_{name}", text, ("sink",), registry=registry)

        self.records = counter("records", "Records that the destination has accepted")
        self.failures = counter("failures", "Failed writes; each is retried with backoff")
        self.refused = counter(
            "refused",
            "Records that the destination permanently refuses. Each is a dead letter, except those that an OTLP "
            "receiver rejects by a partial success: it does not say which ones they are",
        )
        self.foreign = counter("foreign_records", "Records of other clusters on the same topic, which the sink skips")
        self.suppressed = Counter(
            "kubeweir_streams_sink_suppressed_records",
            "Records that made no Kubernetes Event. repeated: the same event was made before. rate: over the rate "
            "limit. old: too old. no_pod: the record names no pod",
            ("sink", "reason"),
            registry=registry,
        )
        self.lag = Gauge(
            "kubeweir_streams_sink_lag_records", "Records of its topic that a sink has not committed yet", ("sink",),
            registry=registry,
        )  # fmt: skip

    def count_stored(self, sink: str, number: int) -> None:
        """Count records that the destination of a sink has accepted."""
        self.records.labels(sink).inc(number)
        if number:
            self._note("write")

    def add_sink(self, sink: str) -> None:
        """Export the counters of a sink that starts."""
        for labelled in (self.records, self.failures, self.refused, self.foreign):
            labelled.labels(sink)

    def remove_sink(self, sink: str) -> None:
        """Stop exporting the lag of a sink that has stopped. Its counters stay."""
        self.lag.remove(sink)
