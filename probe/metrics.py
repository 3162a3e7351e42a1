"""The probe's Prometheus metrics, read from its parts when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from probe.agent import Agent
from probe.export.drain import Drain
from probe.export.publisher import Publisher
from probe.export.ring import Ring
from probe.export.spool import Spool
from probe.kernel.maps import Maps


class ProbeCollector(Collector):
    """Everything that the probe counts."""

    def __init__(
        self, agent: Agent, maps: Maps, ring: Ring, delivery: Drain, spool: Spool, publisher: Publisher
    ) -> None:
        self._agent, self._maps, self._ring = agent, maps, ring
        self._delivery, self._spool, self._publisher = delivery, spool, publisher

    def collect(self) -> Iterator[Metric]:
        """One pass over the parts."""
        delivery, publisher = self._delivery, self._publisher
        yield CounterMetricFamily("kubeweir_probe_verdicts", "Verdicts read from the ring", value=delivery.verdicts)
        yield CounterMetricFamily("kubeweir_probe_batches", "Batches spooled", value=delivery.batches)
        yield CounterMetricFamily(
            "kubeweir_probe_acked_batches", "Batches that Kafka acknowledged", value=publisher.acked_batches
        )
        yield CounterMetricFamily(
            "kubeweir_probe_acked_bytes", "Bytes of batches that Kafka acknowledged", value=publisher.acked_bytes
        )
        lost = CounterMetricFamily(
            "kubeweir_probe_lost_verdicts", "Rows missing from the log, by reason", labels=["reason"]
        )
        for reason, total in delivery.lost().items():
            lost.add_metric([reason], total)
        yield lost
        kernel = CounterMetricFamily("kubeweir_probe_kernel_events", "What the programs count", labels=["event"])
        for counter, total in self._maps.counters().items():
            kernel.add_metric([counter.name.lower()], total)
        yield kernel
        yield GaugeMetricFamily(
            "kubeweir_probe_ring_unread_verdicts",
            "Rows in the ring that are not spooled yet",
            value=self._ring.unread,
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_ring_capacity_verdicts", "Rows that the ring can hold", value=self._ring.capacity
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_spool_batches", "Batches not acknowledged", value=self._spool.unacked_batches
        )
        yield GaugeMetricFamily("kubeweir_probe_spool_bytes", "Bytes of the spool on disk", value=self._spool.size)
        yield GaugeMetricFamily(
            "kubeweir_probe_spool_capacity_bytes", "Bytes that the spool may have", value=self._spool.max_bytes
        )
        binding = self._agent.binding
        yield GaugeMetricFamily(
            "kubeweir_probe_attached_pods", "Local pods whose interface is under policy", value=len(binding.bound)
        )
        yield GaugeMetricFamily(
            "kubeweir_probe_unattached_pods", "Local pods without an interface", value=len(binding.waiting)
        )
        entries = GaugeMetricFamily("kubeweir_probe_map_entries", "Entries of a policy map", labels=["map"])
        limits = GaugeMetricFamily(
            "kubeweir_probe_map_capacity_entries", "Entries that a policy map can hold", labels=["map"]
        )
        for name, (used, limit) in self._agent.usage().items():
            entries.add_metric([name], used)
            limits.add_metric([name], limit)
        yield entries
        yield limits
        yield GaugeMetricFamily(
            "kubeweir_probe_identities", "Classes of peers that policies tell apart", value=self._agent.identities
        )
