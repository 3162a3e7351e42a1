"""The counter of verdicts, by what was decided and, if wanted, about whom: with a bound on how many are told apart.

A namespace's or a workload's label makes a series each; a cluster may have any number of them over time. So there are
at most ``most``, first come, first served; the rest share the label ``_other``, which is no name that Kubernetes takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol, get_args

import orjson
import prometheus_client
from prometheus_client import CollectorRegistry

By = Literal["none", "namespace", "workload"]
"""What the counter has labels for besides what was decided. A workload has its namespace beside it."""
BY: Final[tuple[By, ...]] = get_args(By)
OTHER: Final = "_other"
_LABELS: Final[dict[By, tuple[str, ...]]] = {
    "none": (),
    "namespace": ("namespace",),
    "workload": ("namespace", "workload"),
}
_CACHED: Final = 5_000
_MOST_REMEMBERED: Final = 100_000
"""Names beyond the bound that are remembered, so that each is counted once."""


class Shared(Protocol):
    """What rows of one kind have in common; see :class:`enrich.template.Template`."""

    @property
    def about(self) -> str: ...

    @property
    def local(self) -> str: ...


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
        self._series: dict[int, tuple[Shared, Any]] = {}
        """By a template's identity, which is its own for as long as it is kept here."""

    def count(self, templates: Sequence[Shared]) -> None:
        """One verdict a template."""
        # By identity: to hash a template is to hash all its text.
        counted = Counter(map(id, templates))
        if not counted.keys() <= self._series.keys():
            self._learn(templates)
        for name, rows in counted.items():
            self._series[name][1].inc(rows)

    def _learn(self, templates: Sequence[Shared]) -> None:
        if len(self._series) >= _CACHED:
            self._series.clear()
        for template in templates:
            if id(template) not in self._series:
                self._series[id(template)] = template, self._make(template)

    def _make(self, shared: Shared) -> Any:
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
