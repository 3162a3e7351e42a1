"""The metric that counts verdicts, by what was decided and, if asked for, by namespace or workload of the subject.

Each namespace or workload makes label values of its own, and a cluster may have any number of them over time. So only
the first ``limit`` ones get their own (:mod:`streams.metrics.label_values`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import prometheus_client
from prometheus_client import CollectorRegistry

from enrich.render.interning import Int64Array, InternMap, InternTable
from enrich.render.template import Template
from enrich.wire.flow import End
from streams.metrics.label_values import LabelValues, VerdictsBy

_LABELS: Final[dict[VerdictsBy, tuple[str, ...]]] = {
    "none": (),
    "namespace": ("namespace",),
    "workload": ("namespace", "workload"),
}
_MAX_REMEMBERED: Final = 100_000
"""Subjects over the limit that are remembered, so that each is counted once."""


class VerdictCounter:
    """Counts verdicts."""

    def __init__(self, registry: CollectorRegistry, by: VerdictsBy, limit: int) -> None:
        """``limit`` is the number of namespaces or workloads that have label values of their own."""
        self._by, self._own = by, LabelValues(limit)
        self._verdicts = prometheus_client.Counter(
            "kubeweir_streams_verdicts",
            "Verdicts made into records; namespace and workload are those of the pod whose policy decided",
            ("disposition", "direction", "reason", *_LABELS[by]),
            registry=registry,
        )
        self._over_limit = prometheus_client.Counter(
            "kubeweir_streams_verdict_subjects_over_limit",
            "Namespaces or workloads that share the label _other, because WEIR_VERDICTS_LIMIT others have labels",
            registry=registry,
        )
        self._others: set[tuple[str, ...]] = set()
        self._series: dict[tuple[str, ...], int] = {}
        self._counters: list[Any] = []
        self._series_of_template = InternMap[Template](
            lambda templates: np.array([self._series_number(template) for template in templates], np.int64)
        )

    def count(self, templates: InternTable[Template], numbers: Int64Array) -> None:
        """Count one verdict for each number of a template."""
        # A batch has many templates with few verdicts each, but few series.
        verdicts = np.bincount(self._series_of_template.of(templates, numbers))
        for series in np.flatnonzero(verdicts).tolist():
            self._counters[series].inc(int(verdicts[series]))

    def _series_number(self, template: Template) -> int:
        decision = template.decision
        labels = (decision.disposition, decision.direction, decision.reason, *self._labels(template.subject.end))
        if labels not in self._series:
            self._series[labels] = len(self._counters)
            self._counters.append(self._verdicts.labels(*labels))
        return self._series[labels]

    def _labels(self, subject: End) -> tuple[str, ...]:
        """Return the label values of a subject."""
        if self._by == "none":
            return ()
        labels: tuple[str, ...] = (subject.namespace,)
        if self._by == "workload":
            labels += (subject.workload,)
        own = self._own.of_all(labels)
        if own != labels and labels not in self._others and len(self._others) < _MAX_REMEMBERED:
            self._others.add(labels)
            self._over_limit.inc()
        return own
