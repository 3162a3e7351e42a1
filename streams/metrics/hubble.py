"""The metrics of the role `hubble`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

_CODES = ("invalid_argument", "resource_exhausted", "unavailable")


class HubbleMetrics:
    """Metrics of the role `hubble`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.streams = Gauge(
            "kubeweir_streams_hubble_streams", "Clients that read flows by Hubble's API now", registry=registry
        )
        self.flows = Counter(
            "kubeweir_streams_hubble_flows", "Flows that were sent to clients of Hubble's API", registry=registry
        )
        self.lost = Counter(
            "kubeweir_streams_hubble_lost_flows",
            "Flows of which clients were told that they are missing: lost before Kafka, cut by a limit, or removed by "
            "retention before a slow client had read them. Each client counts",
            registry=registry,
        )
        self.refused = Counter(
            "kubeweir_streams_hubble_refused",
            "Requests that ended with an error, by gRPC's status code",
            ("code",),
            registry=registry,
        )
        for code in _CODES:
            self.refused.labels(code)
