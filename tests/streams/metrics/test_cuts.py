"""What was not logged on purpose is counted by what cut it, and by namespace only where a limit did."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from enrich.wire.cuts import Cut, CutPart
from streams.metrics.roles import EnrichMetrics


def test_only_what_a_limit_has_cut_is_counted_by_namespace() -> None:
    registry = CollectorRegistry()
    metrics = EnrichMetrics(registry)
    parts = [CutPart("shop", "allow", 5), CutPart("", "deny", 1)]
    metrics.count_cut(Cut("limit", "allowed", 7, 7, 1000, parts))
    metrics.count_cut(Cut("logging", "allowed", 9, 9, 1000, parts))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"kubeweir_streams_{name}_verdicts_total", labels)

    assert value("cut", by="limit", **{"class": "allowed"}) == 7
    assert value("cut", by="logging", **{"class": "allowed"}) == 9
    assert value("limited", disposition="allow", namespace="shop") == 5
