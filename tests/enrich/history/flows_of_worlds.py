"""Flow records as workers would write them, made from the random clusters of the property tests."""

from __future__ import annotations

from datetime import UTC, datetime

from enrich.model import Pod, Protocol
from enrich.policy.decide import Decision
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.address_interval import AddressInterval
from enrich.wire.batch import Reason
from enrich.wire.flow import Connection, End, Flow, NamedPolicy
from tests.enrich.history.journals import CLUSTER, START_NS, at
from tests.enrich.history.pairs_of_worlds import Asked

_BY_POLICY = (Reason.POLICY, Reason.EXPLICIT_DENY)


def timestamp(seconds: float) -> str:
    ns = at(seconds)
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09}Z"


def flow_of(view: PolicyView, query: Asked, decision: Decision, seconds: float, number: int = 1) -> Flow:
    """Return the record of a decision, made at a time."""
    pod, direction, peer, protocol, port = query
    own, other = pod_end(pod), peer_end(view, peer)
    subject_ip = next(ip for ip in pod.ips if (":" in ip) == (":" in peer.ip))
    inward = direction is Direction.INGRESS
    names = tuple(NamedPolicy(kind=one.kind, namespace=one.namespace, name=one.name) for one in decision.policies)
    by_policy = decision.reason in _BY_POLICY
    return Flow(
        connection=Connection(
            src_ip=peer.ip if inward else subject_ip, dest_ip=subject_ip if inward else peer.ip,
            src_port=40_000 + number % 10_000 if protocol else None, dest_port=port if protocol else None,
            protocol=protocol.name.lower() if isinstance(protocol, Protocol) else "icmp",
            direction="ingress" if inward else "egress",
        ),
        disposition=decision.verdict.name.lower(), reason=decision.reason.name.lower(),
        policies=names if by_policy else (), isolated_by=() if by_policy else names,
        src=other if inward else own, dest=own if inward else other, count=1, timestamp=timestamp(seconds),
        last_timestamp=timestamp(seconds), node_name=pod.node, cluster=CLUSTER, schema=1, id=f"ring-{number}",
    )  # fmt: skip


def pod_end(pod: Pod) -> End:
    owner = (pod.owner.kind, pod.owner.name) if pod.owner else ("Deployment", pod.name)
    return End(
        pod_name=pod.name, namespace=pod.namespace, pod_namespace=pod.namespace, workload_kind=owner[0],
        workload_name=owner[1], pod_uid=pod.uid or pod.name, node_name=pod.node,
        labels={key: value for key, value in pod.labels.items() if key == "app"},
    )  # fmt: skip


def peer_end(view: PolicyView, peer: Endpoint) -> End:
    if peer.pod is not None:
        return pod_end(peer.pod)
    node = next((node for node in view.nodes.values() if peer.ip in node.all_ips), None)
    return End(instance=peer.ip) if node is None else End(node_name=node.name)


def intervals_of(view: PolicyView) -> list[AddressInterval]:
    """Return the address intervals of all pods, which began before the journal."""
    return [
        AddressInterval(
            cluster=CLUSTER, node=pod.node, ip=ip, uid=pod.uid or pod.name, namespace=pod.namespace, pod=pod.name,
            first=START_NS - 10**12, start=START_NS - 10**12, labels=dict(pod.labels),
        )
        for pod in view.pods.values()
        if not pod.host_network and not pod.terminated
        for ip in pod.ips
    ]  # fmt: skip
