"""Finds the id of the cluster that the probe's node belongs to."""

from __future__ import annotations

from collections.abc import Callable

from enrich.index.cluster import Cluster
from enrich.model import Name
from probe.settings import Settings


def find_cluster_id(settings: Settings, cluster: Cluster, known: str | None, is_over: Callable[[], bool]) -> str | None:
    """Return the cluster's id, None if the probe ended before it was found.

    It is the setting, or what an earlier process found (``known``), or what the source says.
    """
    if settings.cluster or known:
        return settings.cluster or known
    while not cluster.synced.wait(0.2):
        if is_over():
            return None
    system = cluster.namespaces().get(Name("", "kube-system"))
    return system.uid if system else "default"
