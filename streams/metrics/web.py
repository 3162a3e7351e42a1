"""The metrics of the role web (:mod:`streams.web`)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class WebMetrics:
    """What the page counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.views = Gauge("kubeweir_web_live_views", "Live views that are open", registry=registry)
        self.cut = Counter(
            "kubeweir_web_cut_views",
            "Live views that were cut, because their browser took records slower than they came",
            registry=registry,
        )
        self.refused = Counter(
            "kubeweir_web_refused_requests",
            "Requests of the page that were not answered, by HTTP status: 400 a filter or a time that cannot be used, "
            "401 no valid token, 403 Health without the right for all namespaces, 404 no such record, 503 Kafka or the "
            "API server do not answer, or too many questions",
            ("status",),
            registry=registry,
        )
        self.skipped = Counter(
            "kubeweir_web_skipped_records",
            "Records of the topic of flows that no live view was offered. behind: they arrived faster than the page "
            "reads them. too_large: more than 64 KiB. invalid: not a record",
            ("reason",),
            registry=registry,
        )
        for reason in ("behind", "too_large", "invalid"):
            self.skipped.labels(reason)
        for status in ("400", "401", "403", "404", "503"):
            self.refused.labels(status)
