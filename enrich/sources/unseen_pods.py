"""Finds where pods may run that no file has, because an operator or a chart makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_RUNS_PODS: Final = frozenset({"template", "podTemplate", "replicas", "instances", "containers", "nodeSets"})
"""A field with such a name, near the top of an object of some operator's kind, is likely about pods that it runs."""
_CHARTS: Final = {
    "HelmRelease": "helm.toolkit.fluxcd.io",
    "HelmChart": "helm.cattle.io",
    "Application": "argoproj.io",
}
"""The kinds of Flux, of k3s and of Argo CD by which a cluster installs a chart of its own accord, with their groups."""


def namespace_of_unseen_pods(kind: str, group: str, spec: Any, own: str) -> str | None:
    """Return the namespace in which an object of some other kind may run pods; None if it seems to run none. ``own``:
    the object's namespace."""
    if _CHARTS.get(kind) == group and isinstance(spec, dict) and _installs_chart(kind, spec):
        destination = spec.get("destination")
        found = destination.get("namespace") if isinstance(destination, dict) else spec.get("targetNamespace")
        return found if isinstance(found, str) and found else own
    return own if "." in group and not group.endswith(".k8s.io") and _runs_pods(spec, 3) else None


def _installs_chart(kind: str, spec: Mapping[str, Any]) -> bool:
    """Return whether an object installs a chart. What an Application takes from a repository instead may be this one,
    whose files are read."""
    sources = spec.get("sources")
    listed = sources if isinstance(sources, list) else [spec.get("source")]
    return kind != "Application" or any(isinstance(one, dict) and one.get("chart") for one in listed)


def _runs_pods(spec: Any, depth: int) -> bool:
    if not isinstance(spec, dict) or not depth:
        return False
    return not _RUNS_PODS.isdisjoint(spec) or any(_runs_pods(below, depth - 1) for below in spec.values())
