"""The counter of verdicts, by what was decided and, if wanted, about whom: with a bound on how many are told apart.

A namespace's or a workload's label makes a series each; a cluster may have any number of them over time. So there are
at most ``most``, first come, first served; the rest share the label ``_other``, which is no name that Kubernetes takes.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import numpy as np
import orjson
import prometheus_client
from prometheus_client import CollectorRegistry

from enrich.numbered import Numbered, Numbers
from enrich.template import Template

By = Literal["none", "namespace", "workload"]
"""What the counter has labels for besides what was decided. A workload has its namespace beside it."""
BY: Final[tuple[By, ...]] = get_args(By)
OTHER: Final = "_other"
_LABELS: Final[dict[By, tuple[str, ...]]] = {
    "none": (),
    "namespace": ("namespace",),
    "workload": ("namespace", "workload"),
}
_CACHED: Final = 50_000
_MOST_REMEMBERED: Final = 100_000
"""Names beyond the bound that are remembered, so that each is counted once."""


class Verdicts:
    """Counts what was decided about the pods whose policy decided."""

    def __init__(self, registry: CollectorRegistry, by: By, most: int) -> None:
        self._by, self._most = by, most
        self._total = prometheus_client.Counter(
            "kubeweir_streams_verdicts",
            "Verdicts made into records; namespace and workload are those of the pod whose policy decided",
            ("disposition", "direction", "reason", *_LABELS[by]),
            registry=registry,
        )
        self._more = prometheus_client.Counter(
            "kubeweir_streams_verdict_subjects_over_limit",
            "Namespaces or workloads that share the label _other, because WEIR_VERDICTS_MOST have their own",
            registry=registry,
        )
        self._own: set[tuple[str, ...]] = set()
        self._others: set[tuple[str, ...]] = set()
        self._series: dict[tuple[str, str], Any] = {}

    def count(self, templates: Numbered[Template], numbers: Numbers) -> None:
        """One verdict a number of a template."""
        rows = np.bincount(numbers)
        distinct = np.flatnonzero(rows)
        for template, count in zip(templates.of(distinct), rows[distinct].tolist(), strict=True):
            self._of(template).inc(count)

    def _of(self, shared: Template) -> Any:
        key = (shared.about, shared.local)
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= _CACHED:
                self._series.clear()
            series = self._series[key] = self._make(shared)
        return series

    def _make(self, shared: Template) -> Any:
        about = orjson.loads(shared.about)
        decided = (about["disposition"], about["connection"]["direction"], about["reason"])
        return self._total.labels(*decided, *self._subject(orjson.loads(shared.local)))

    def _subject(self, end: dict[str, str]) -> tuple[str, ...]:
        if self._by == "none":
            return ()
        named: tuple[str, ...] = (end.get("namespace", ""),)
        if self._by == "workload":
            named += ("/".join(filter(None, (end.get("workload_kind"), end.get("workload_name")))),)
        if named in self._own or len(self._own) < self._most:
            self._own.add(named)
            return named
        if named not in self._others and len(self._others) < _MOST_REMEMBERED:
            self._others.add(named)
            self._more.inc()
        return (OTHER,) * len(named)
