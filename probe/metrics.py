"""The probe's Prometheus metrics, read from its parts at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from enrich.runtime.last_success import LastSuccess
from enrich.runtime.watching import Watched, oldest_age_s
from probe.agent import Agent
from probe.export.drain import Drain
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.ring import Ring
from probe.export.spool import Spool
from probe.kernel.maps import Maps


def last_success(
    registry: CollectorRegistry, source: Watched, publisher: Publisher, intervals: AddressIntervalPublisher
) -> LastSuccess:
    """Follow when Kafka last acknowledged anything, and how long the API server has been silent."""
    ages = LastSuccess(registry, "probe", ("produce", "interval"))
    ages.read("watch", partial(oldest_age_s, source))
    publisher.on_acknowledged = partial(ages.note, "produce")
    intervals.on_acknowledged = partial(ages.note, "interval")
    return ages


class ProbeCollector(Collector):
    """All metrics of the probe, except those of its source of objects."""

    def __init__(
        self,
        agent: Agent,
        maps: Maps,
        ring: Ring,
        drain: Drain,
        spool: Spool,
        publisher: Publisher,
        intervals: AddressIntervalPublisher,
    ) -> None:
        self._agent, self._maps = agent, maps
        self._ring, self._drain, self._spool = ring, drain, spool
        self._publisher, self._intervals = publisher, intervals

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        yield from self._export()
        yield from self._losses()
        yield from self._queues()
        yield from self._pods()
        yield from self._interfaces()
        yield from self._policy()
        yield from self._logging()

    def _export(self) -> Iterator[Metric]:
        drain, publisher = self._drain, self._publisher
        yield CounterMetricFamily(
            "kubeweir_probe_verdicts", "Verdicts read from the kernel's ring buffer", value=drain.verdicts
        )
        yield CounterMetricFamily("kubeweir_probe_batches", "Batches appended to the spool", value=drain.batches)
        yield CounterMetricFamily(
            "kubeweir_probe_acked_batches", "Batches that Kafka has acknowledged", value=publisher.acked_batches
        )
        yield CounterMetricFamily(
            "kubeweir_probe_acked_bytes",
            "Bytes of the batches that Kafka has acknowledged",
            value=publisher.acked_bytes,
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_clock_offset_seconds",
            "By how much the node's clock is ahead of the brokers', as of the last batch that Kafka has acknowledged",
            value=publisher.clock.offset_s,
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_clock_offset_uncertainty_seconds",
            "By how much more or less the node's clock may be ahead; 0 before the first measurement",
            value=publisher.clock.uncertainty_s,
        )
        refusals = CounterMetricFamily(
            "kubeweir_probe_kafka_refusals",
            "Answers by which Kafka refused a record that is sent again, because a right is missing for example",
            labels=["records"],
        )
        refusals.add_metric(["batches"], publisher.refusal.total)
        refusals.add_metric(["address_intervals"], self._intervals.refusal.total)
        yield refusals
        dropped = CounterMetricFamily(
            "kubeweir_probe_dropped_address_intervals",
            "Address intervals that were given up. refused: Kafka would never take them; queue_full: too many waited",
            labels=["reason"],
        )
        for reason, total in self._intervals.dropped.items():
            dropped.add_metric([reason], total)
        yield dropped

    def _losses(self) -> Iterator[Metric]:
        lost = CounterMetricFamily(
            "kubeweir_probe_lost_verdicts",
            "Verdicts that were lost before Kafka, by reason",
            labels=["reason"],
        )
        for reason, total in self._drain.lost().items():
            lost.add_metric([reason], total)
        yield lost
        events = CounterMetricFamily(
            "kubeweir_probe_kernel_events", "Events that the kernel programs count, by event", labels=["event"]
        )
        for counter, total in self._maps.counters().items():
            events.add_metric([counter.name.lower()], total)
        yield events
        lookups = CounterMetricFamily(
            "kubeweir_probe_lookups",
            "Flows of mid-flow packets that were looked up in nf_conntrack, by result; failed has those, too, that "
            "found no place in the table when all connections of a pod were read",
            labels=["result"],
        )
        for result, total in self._agent.adoption.lookups.items():
            lookups.add_metric([result], total)
        yield lookups

    def _queues(self) -> Iterator[Metric]:
        ring, spool = self._ring, self._spool
        yield GaugeMetricFamily(
            "kubeweir_probe_ring_unread_verdicts",
            "Verdicts in the ring buffer that are not in the spool yet",
            value=ring.unread,
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_ring_capacity_verdicts", "Verdicts that the ring buffer can hold", value=ring.capacity
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_spool_batches",
            "Batches in the spool that Kafka has not acknowledged",
            value=spool.unacked_batches,
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_oldest_unacknowledged_seconds",
            "Seconds that the oldest batch that Kafka has not acknowledged has been in the spool",
            value=self._publisher.oldest_unacknowledged_s(),
        )
        yield GaugeMetricFamily("kubeweir_probe_spool_bytes", "Bytes of the spool on disk", value=spool.size)
        yield GaugeMetricFamily(
            "kubeweir_probe_spool_capacity_bytes",
            "Bytes that the spool may take on disk",
            value=spool.max_bytes,
        )

    def _pods(self) -> Iterator[Metric]:
        binding = self._agent.binding
        yield GaugeMetricFamily(
            "kubeweir_probe_attached_pods", "Local pods whose interface is under policy", value=len(binding.bound)
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_unattached_pods",
            "Local pods whose interface was not found, so that their policy is not enforced",
            value=len(binding.unattached),
        )
        unenforced = GaugeMetricFamily(
            "kubeweir_probe_unenforced_pod",
            "1 for each local pod whose policy is not enforced; the log and /readyz say why",
            labels=["namespace", "pod"],
        )
        for pod_name in self._agent.unenforced:
            unenforced.add_metric([*pod_name], 1)
        yield unenforced
        closed = GaugeMetricFamily(
            "kubeweir_probe_incomplete_pod",
            "1 for each local pod that is closed because its policies, or the pod itself, do not fit the maps; the log "
            "and /readyz say which",
            labels=["namespace", "pod"],
        )
        for incomplete in self._agent.incomplete:
            closed.add_metric([*incomplete], 1)
        yield closed

    def _interfaces(self) -> Iterator[Metric]:
        kept = GaugeMetricFamily(
            "kubeweir_probe_kept_interface",
            "1 for each interface that stays enforced although its pod is not in the API, has terminated "
            "or lost its address",
            labels=["interface", "namespace", "pod", "reason"],
        )
        for interface, (pod, reason) in self._agent.kept.items():
            namespace, _, short = pod.partition("/")
            kept.add_metric([interface, namespace, short, reason], 1)
        yield kept
        closed = GaugeMetricFamily(
            "kubeweir_probe_closed_interface",
            "1 for each interface that carries the programs and is not surely any pod's, so that it is closed",
            labels=["interface", "reason"],
        )
        for interface, reason in self._agent.closed.items():
            closed.add_metric([interface, reason.partition(":")[0]], 1)
        yield closed
        elsewhere = GaugeMetricFamily(
            "kubeweir_probe_unenforced_interface",
            "1 for each interface inside a local pod that is not enforced, because it is not a veth of the node",
            labels=["namespace", "pod", "interface", "kind"],
        )
        for inside in self._agent.unenforced_interfaces.found:
            elsewhere.add_metric([*inside], 1)
        yield elsewhere

    def _policy(self) -> Iterator[Metric]:
        entries = GaugeMetricFamily(
            "kubeweir_probe_map_entries",
            "Entries in a map of the kernel; of connections and denied flows, those beyond the pods' reserves",
            labels=["map"],
        )
        limits = GaugeMetricFamily(
            "kubeweir_probe_map_capacity_entries",
            "Entries that a map of the kernel can hold; of connections and denied flows, those that can be lent",
            labels=["map"],
        )
        for name, (used, limit) in self._agent.usage().items():
            entries.add_metric([name], used)
            limits.add_metric([name], limit)
        yield entries
        yield limits
        yield GaugeMetricFamily(
            "kubeweir_probe_identities",
            "Classes of peers that the policies in force tell apart",
            value=self._agent.identities,
        )

    def _logging(self) -> Iterator[Metric]:
        logging = self._agent.logging
        modes = GaugeMetricFamily(
            "kubeweir_probe_logging",
            "1 for what is logged of a class of verdicts: all, none, or delegated (those that an annotation asks for)",
            labels=["verdicts", "logged"],
        )
        for verdicts, logged in logging.modes.items():
            modes.add_metric([verdicts, logged], 1)
        yield modes
        cut = CounterMetricFamily(
            "kubeweir_probe_cut_verdicts",
            "Verdicts that the kernel did not write, because they are not logged (logging) or because there were too "
            "many in a second (limit): allowed connections; denied packets and audited connections",
            labels=["by", "verdicts"],
        )
        for (by, verdicts), total in self._maps.cut().items():
            cut.add_metric([by, verdicts], total)
        yield cut
        yield GaugeMetricFamily(
            "kubeweir_probe_invalid_network_logging",
            "1 if the object NetworkLogging is not valid, so that the last valid one stays in force; /readyz says why",
            value=1 if logging.invalid else 0,
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_suspicious_annotations",
            "Annotations about logging that count as not set because their value is not true; /readyz names them",
            value=len(logging.suspicious),
        )
