"""What a record says of a pod beside its name, as of the packet's time."""

from __future__ import annotations

from typing import NamedTuple

from enrich.index.cluster import Cluster, workload_key
from enrich.index.intervals import FOREVER
from enrich.model import Labels, Name, Owner, Pod


class PodFacts(NamedTuple):
    """What surely was true of a pod at a moment: what may have been otherwise is left out."""

    labels: Labels
    workload: Owner | None
    zone: str
    since_ns: int = -FOREVER
    until_ns: int = FOREVER
    """The answer is the same from ``since_ns`` until ``until_ns`` (not included)."""
    owners: tuple[Name, ...] = ()
    """The keys of the workloads that the answer was made from."""
    complete: bool = True
    """Whether nothing was left out: one version of the pod, and one workload, are what was."""


def present_since_ns(cluster: Cluster, pod: Pod) -> int:
    """Return the moment from which a pod, its node and its workload surely are as they are now."""
    since = max(cluster.addresses.former_pods.since_ns(pod.uid), cluster.former.zones.since_ns(pod.node))
    if pod.owner is None:
        return since
    return max(since, cluster.former.workloads.since_ns(workload_key(pod.namespace, pod.owner)))


def present_facts(cluster: Cluster, pod: Pod) -> PodFacts:
    """Return what is true of a pod now."""
    return PodFacts(pod.labels, cluster.workload_of(pod), zone_of(cluster, pod.node))


def facts_at(cluster: Cluster, pod: Pod, at_ns: int) -> PodFacts:
    """Return what was true of a pod at a moment; ``pod`` is as it is now."""
    versions, since, until = cluster.addresses.former_pods.at(pod.uid, at_ns, pod)
    workloads: list[Owner | None] = []
    for version in versions:
        found, *span = _workloads_at(cluster, version, at_ns)
        workloads += found
        since, until = max(since, span[0]), min(until, span[1])
    zone, *span = zone_at(cluster, pod.node, at_ns)
    since, until = max(since, span[0]), min(until, span[1])
    if not versions:
        return PodFacts({}, None, zone, since, until, complete=False)
    first, *others = versions
    labels = {
        key: value for key, value in first.labels.items()
        if all(other.labels.get(key) == value for other in others)
    }  # fmt: skip
    agreed = bool(workloads) and all(one == workloads[0] for one in workloads)
    owners = tuple(workload_key(one.namespace, one.owner) for one in versions if one.owner is not None)
    complete = agreed and all(other.labels == first.labels for other in others)
    return PodFacts(labels, workloads[0] if agreed else None, zone, since, until, owners, complete)


def zone_of(cluster: Cluster, node: str) -> str:
    """Return the zone of a node; empty if it is not known."""
    found = cluster.node(node)
    return found.zone if found else ""


def zone_at(cluster: Cluster, node: str, at_ns: int) -> tuple[str, int, int]:
    """Return the zone that a node had at a moment, and since and until when this is so; empty if it is not known."""
    values, since, until = cluster.former.zones.at(node, at_ns, zone_of(cluster, node))
    named = [zone for zone in values if zone]
    return named[0] if len(named) == 1 else "", since, until


def _workloads_at(cluster: Cluster, pod: Pod, at_ns: int) -> tuple[list[Owner | None], int, int]:
    """Return what may have run a version of a pod."""
    if pod.owner is None:
        return [None], -FOREVER, FOREVER
    key: Name = workload_key(pod.namespace, pod.owner)
    values, since, until = cluster.former.workloads.at(key, at_ns, cluster.workload(key))
    return [cluster.runs(pod, workload) for workload in values], since, until
