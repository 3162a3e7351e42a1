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

from enrich.render.interning import Int64Array, InternMap, InternTable
from enrich.render.template import Template

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
            "Namespaces or workloads that share the label _other, because WEIR_VERDICTS_LIMIT have their own",
            registry=registry,
        )
        self._own: set[tuple[str, ...]] = set()
        self._others: set[tuple[str, ...]] = set()
        self._series: dict[tuple[str, ...], int] = {}
        self._counters: list[Any] = []
        self._known: dict[tuple[str, str], int] = {}
        self._of_template = InternMap[Template](
            lambda templates: np.array([self._number(one) for one in templates], np.int64)
        )

    def count(self, templates: InternTable[Template], numbers: Int64Array) -> None:
        """One verdict a number of a template."""
        # Templates are many, and each is in few rows of a batch; series are few.
        verdicts = np.bincount(self._of_template.of(templates, numbers))
        for series in np.flatnonzero(verdicts).tolist():
            self._counters[series].inc(int(verdicts[series]))

    def _number(self, shared: Template) -> int:
        """The number of the series of a template."""
        key = (shared.about, shared.local)
        number = self._known.get(key)
        if number is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            number = self._known[key] = self._make(shared)
        return number

    def _make(self, shared: Template) -> int:
        about = orjson.loads(shared.about)
        decided = (about["disposition"], about["connection"]["direction"], about["reason"])
        labels = (*decided, *self._subject(orjson.loads(shared.local)))
        if labels not in self._series:
            self._series[labels] = len(self._counters)
            self._counters.append(self._total.labels(*labels))
        return self._series[labels]

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
