"""Whether a rule of a policy matches: its peers and its ports. Pure; :mod:`enrich.policy.decide` decides by it.

The wording in quotes is the API's (``networking.k8s.io/v1``, types.go, and ``policy.networking.k8s.io/v1alpha2``,
clusternetworkpolicy_types.go). ``subject`` is the pod whose policy is judged, ``peer`` the other end.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from enrich.model import (
    ClusterNetworkPolicy,
    ClusterRule,
    IPBlock,
    Name,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Peer,
    Pod,
    PolicyPort,
    Protocol,
    Rule,
    Selector,
)
from enrich.policy import selectors


class Direction(enum.IntEnum):
    """Of a connection, as the subject sees it; the numbers are the kernel's."""

    EGRESS = 0
    INGRESS = 1


@dataclass(frozen=True, slots=True)
class PolicyView:
    """The cluster's state that policy depends on."""

    pods: Mapping[Name, Pod]
    namespaces: Mapping[Name, Namespace]
    nodes: Mapping[Name, Node]
    policies: Mapping[Name, NetworkPolicy]
    cluster_policies: Mapping[Name, ClusterNetworkPolicy]
    own_node: str = ""
    """Name of the node that judges."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection: an address, and the pod that holds it, if one does."""

    ip: str
    pod: Pod | None = None


def endpoint_at(view: PolicyView, ip: str) -> Endpoint:
    """Who has this address. Terminated pods hold none; a hostNetwork pod is its node."""
    canonical = str(ipaddress.ip_address(ip))
    holders = [pod for pod in address_holders(view.pods.values()) if canonical in pod.ips]
    return Endpoint(canonical, holders[-1] if holders else None)


def address_holders(pods: Iterable[Pod]) -> list[Pod]:
    """Those that hold addresses of their own. Of two that claim one, the API has yet to take it from the older."""
    holders = (pod for pod in pods if not pod.host_network and not pod.terminated and pod.ips)
    return sorted(holders, key=lambda pod: (pod.started_ns, pod.uid))


def rule_matches(
    view: PolicyView,
    namespace: str,
    rule: Rule,
    peer: Endpoint,
    destination: Pod | None,
    protocol: Protocol | None,
    port: int,
) -> bool:
    """ "This rule matches traffic if and only if the traffic matches both ports AND from/to"."""
    # "If this field is empty or missing, this rule matches all sources (destinations)."
    by_peer = not rule.peers or any(peer_matches(view, namespace, wanted, peer) for wanted in rule.peers)
    # "If this field is empty or missing, this rule matches all ports."
    return by_peer and (not rule.ports or any(port_matches(p, destination, protocol, port) for p in rule.ports))


def cluster_rule_matches(
    view: PolicyView, rule: ClusterRule, peer: Endpoint, destination: Pod | None, protocol: Protocol | None, port: int
) -> bool:
    """ "If any element matches ... then the specified action is applied", and any of the protocols, if there are."""
    if not any(peer_matches(view, "", wanted, peer) for wanted in rule.peers):
        return False
    # "If unspecified, protocol-specific attributes will not be used to match traffic."
    return not rule.ports or any(port_matches(p, destination, protocol, port) for p in rule.ports)


def peer_matches(view: PolicyView, namespace: str, wanted: Peer, peer: Endpoint) -> bool:
    """One peer of a rule. Selectors see pods only; a block sees any address, a pod's too."""
    if wanted.ip_block is not None:
        return block_matches(wanted.ip_block, peer.ip)
    if wanted.nodes is not None:
        return node_matches(view, wanted.nodes, peer)
    if peer.pod is None or peer.pod.host_network:
        # "Note that host-networked pods are not included in this type of peer."
        return False
    if wanted.namespaces is None:
        # "Otherwise it selects the pods matching podSelector in the policy's own namespace."
        if peer.pod.namespace != namespace:
            return False
    elif not namespace_matches(view, wanted.namespaces, peer.pod.namespace):
        return False
    # "If podSelector is also set ... Otherwise it selects all pods in the namespaces selected by namespaceSelector."
    return wanted.pods is None or selectors.matches(wanted.pods, peer.pod.labels)


def node_matches(view: PolicyView, wanted: Selector, peer: Endpoint) -> bool:
    """ "It selects the nodeIPs ... by matching on the IPs present in the node.Status.Addresses field of the node"."""
    if peer.pod is not None and not peer.pod.host_network:
        return False
    return any(peer.ip in node.ips and selectors.matches(wanted, node.labels) for node in view.nodes.values())


def namespace_matches(view: PolicyView, wanted: Selector, namespace: str) -> bool:
    """A namespace selector; a namespace that is not known matches none."""
    found = view.namespaces.get(Name("", namespace))
    return found is not None and selectors.matches(wanted, found.labels)


def block_matches(block: IPBlock, ip: str) -> bool:
    """ "except is a slice of CIDRs that should not be included within an IPBlock"."""
    address = ipaddress.ip_address(ip)
    if address not in ipaddress.ip_network(block.cidr):
        return False
    return not any(address in ipaddress.ip_network(hole) for hole in block.excepts)


def port_matches(wanted: PolicyPort, destination: Pod | None, protocol: Protocol | None, port: int) -> bool:
    """One NetworkPolicyPort. A name means the destination pod's container port of that name and protocol."""
    if wanted.protocol is not protocol:
        return False
    if wanted.port is None:
        # "If this field is not provided, this matches all port names and numbers."
        return True
    if isinstance(wanted.port, str):
        return port in resolve_named_port(destination.ports if destination else (), wanted.port, wanted.protocol)
    return wanted.port <= port <= (wanted.end_port or wanted.port)


def resolve_named_port(ports: Sequence[NamedPort], name: str, protocol: Protocol) -> frozenset[int]:
    """The numbers that a port's name has among a pod's named ports."""
    return frozenset(one.port for one in ports if one.name == name and one.protocol is protocol)
