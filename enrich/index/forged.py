"""Address intervals that cannot be true: what the API server says of the pod, or of the address, is against them.

Any probe may write the topic of address intervals, in the name of any node; Kafka does not say who wrote a record. A
probe reports its own node's pods only. So an interval is refused if its pod runs on another node, or if its address
belongs to a node, a Service, or a pod of another node at the same time. Pods of one node may follow each other at an
address faster than the API server says so, and there the probe knows better.
"""

from __future__ import annotations

from typing import Final

from enrich.index.cluster import Cluster
from enrich.index.intervals import FOREVER, SECOND
from enrich.model import Pod
from enrich.wire.address_interval import AddressInterval, AddressIntervalKey

_SLACK_NS: Final = 5 * SECOND
"""By how much two nodes' intervals may overlap: clocks differ, and the API server hears late of a pod's end."""


def why_forged(cluster: Cluster, interval: AddressInterval) -> str | None:
    """Return why an interval cannot be true, in words; None if nothing that is known is against it."""
    claim = f"node {interval.node} says that pod {interval.namespace}/{interval.pod} has {interval.ip}"
    pod = _watched_pod(cluster, interval.uid)
    if pod is not None:
        if pod.node and pod.node != interval.node:
            return f"{claim}, but the pod runs on node {pod.node}"
        if (pod.namespace, pod.name) != (interval.namespace, interval.pod):
            return f"{claim}, but the pod of this UID is {pod.namespace}/{pod.name}"
    if interval.end is None:
        # Since when a node or a Service has its address is not known, so an interval that has ended may be true.
        node, service = cluster.node_of_ip(interval.ip), cluster.service_of(interval.ip)
        if node is not None:
            return f"{claim}, which is an address of node {node.name}"
        if service is not None:
            return f"{claim}, which is the cluster IP of Service {service.namespace}/{service.name}"
    # A pod of which the start is not known counts for a claim that has no end only.
    start, end = interval.start + _SLACK_NS, FOREVER if interval.end is None else interval.end - _SLACK_NS
    for one in cluster.addresses.watched_intervals(interval.ip):
        other = cluster.addresses.pod_by_uid(one.uid)
        if other is None or one.uid == interval.uid or other.node in {"", interval.node}:
            continue
        since = FOREVER - 1 if one.start_ns == -FOREVER else one.start_ns
        if since < end and start < one.end_ns:
            return f"{claim}, but pod {other.namespace}/{other.name} on node {other.node} had it then"
    return None


def why_forged_end(cluster: Cluster, key: AddressIntervalKey) -> str | None:
    """Return why the deletion of an interval is not its own node's; None if nothing that is known is against it."""
    pod = _watched_pod(cluster, key.uid)
    if pod is not None and pod.node and pod.node != key.node:
        return f"node {key.node} deletes the interval of pod {pod.namespace}/{pod.name}, which runs on node {pod.node}"
    return None


def _watched_pod(cluster: Cluster, uid: str) -> Pod | None:
    """Return a pod as the API server has it now; None if it has none of this UID."""
    return cluster.addresses.pod_by_uid(uid) if cluster.addresses.is_watched(uid) else None
