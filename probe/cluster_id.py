"""Finds the id of the cluster that the probe's node belongs to."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from enrich.index.cluster import Cluster
from enrich.model import Name
from probe.settings import Settings

log = structlog.get_logger("kubeweir.probe")


def find_cluster_id(settings: Settings, cluster: Cluster, known: str | None, is_over: Callable[[], bool]) -> str | None:
    """Return the cluster's id, None if the probe ended before it was found.

    It is the setting, or what an earlier process found (``known``), or what the source says.
    """
    if settings.cluster or known:
        return settings.cluster or known
    while not cluster.synced.wait(0.2):
        if is_over():
            return None
    return _uid(cluster) or "default"


def other_cluster(settings: Settings, cluster: Cluster, used: str) -> str | None:
    """Return the id of the cluster that the source turned out to describe; None if it is the one in use, or not known.

    A node that joins another cluster may still have the ring, the spool and the intervals of the first one. A restart
    goes on under their cluster's id at once, because the API server may be away for long."""
    found = "" if settings.cluster else _uid(cluster)
    if not found or found == used:
        return None
    log.error("this node belongs to another cluster now: what it has of the first one is published in that one's name",
              before=used, now=found)  # fmt: skip
    return found


def _uid(cluster: Cluster) -> str:
    system = cluster.namespaces().get(Name("", "kube-system"))
    return system.uid if system else ""
