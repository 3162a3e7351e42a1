"""Whether one rule of a policy matches: its peers and its ports. :mod:`enrich.policy.decide` decides with it.

``subject`` is the pod whose policy decides, ``peer`` the other end; "source" and "destination" are never used for them,
because the subject is the source for egress and the destination for ingress. The text in double quotes is the API's own
(``networking.k8s.io/v1``, types.go, and ``policy.networking.k8s.io/v1alpha2``, clusternetworkpolicy_types.go), beside
the branch that implements it.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from enrich.label_selector import Selector
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
    Policy,
    PolicyPort,
    Protocol,
    Rule,
)
from enrich.policy import selectors


class Direction(enum.IntEnum):
    """The direction of a connection, as its subject sees it. The numbers are the kernel program's."""

    EGRESS = 0
    INGRESS = 1


@dataclass(frozen=True, slots=True)
class PolicyView:
    """The part of the cluster's state that policies depend on."""

    pods: Mapping[Name, Pod]
    namespaces: Mapping[Name, Namespace]
    nodes: Mapping[Name, Node]
    policies: Mapping[Name, NetworkPolicy]
    cluster_policies: Mapping[Name, ClusterNetworkPolicy]
    own_node: str = ""
    """The node that the probe runs on; empty where no node decides."""

    def all_policies(self) -> list[Policy]:
        """Return the policies of every kind."""
        return [*self.policies.values(), *self.cluster_policies.values()]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection: an address, and the pod that holds it, if a pod does."""

    ip: str
    pod: Pod | None = None


def endpoint_at(view: PolicyView, ip: str) -> Endpoint:
    """Return the end that has an address. A terminated pod holds no address; a hostNetwork pod is its node."""
    canonical = str(ipaddress.ip_address(ip))
    holders = [pod for pod in address_holders(view.pods.values()) if canonical in pod.ips]
    return Endpoint(canonical, holders[-1] if holders else None)


def address_holders(pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods that hold addresses of their own, the one started last at the end.

    Two pods claim one address while the API server still lists a former holder: the one started last has it.
    """
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
    """Return whether a NetworkPolicy's rule matches. ``namespace`` is the policy's.

    "This rule matches traffic if and only if the traffic matches both ports AND from/to".
    """
    # "If this field is empty or missing, this rule matches all sources (destinations)."
    by_peer = not rule.peers or any(peer_matches(view, namespace, rule_peer, peer) for rule_peer in rule.peers)
    # "If this field is empty or missing, this rule matches all ports."
    return by_peer and (not rule.ports or any(port_matches(p, destination, protocol, port) for p in rule.ports))


def cluster_rule_matches(
    view: PolicyView, rule: ClusterRule, peer: Endpoint, destination: Pod | None, protocol: Protocol | None, port: int
) -> bool:
    """Return whether a ClusterNetworkPolicy's rule matches.

    "If any element matches ... then the specified action is applied", and any of the protocols, if it lists some.
    """
    if not any(peer_matches(view, "", rule_peer, peer) for rule_peer in rule.peers):
        return False
    # "If unspecified, protocol-specific attributes will not be used to match traffic."
    return not rule.ports or any(port_matches(p, destination, protocol, port) for p in rule.ports)


def peer_matches(view: PolicyView, namespace: str, rule_peer: Peer, peer: Endpoint) -> bool:
    """Return whether one entry of ``from`` or ``to`` matches. Selectors see only pods; an IP block sees any address."""
    if rule_peer.ip_block is not None:
        return block_matches(rule_peer.ip_block, peer.ip)
    if rule_peer.nodes is not None:
        return node_matches(view, rule_peer.nodes, peer)
    if peer.pod is None or peer.pod.host_network:
        # "Note that host-networked pods are not included in this type of peer."
        return False
    if rule_peer.namespaces is None:
        # "Otherwise it selects the pods matching podSelector in the policy's own namespace."
        if peer.pod.namespace != namespace:
            return False
    elif not namespace_matches(view, rule_peer.namespaces, peer.pod.namespace):
        return False
    # "If podSelector is also set ... Otherwise it selects all pods in the namespaces selected by namespaceSelector."
    return rule_peer.pods is None or selectors.matches(rule_peer.pods, peer.pod.labels)


def node_matches(view: PolicyView, selector: Selector, peer: Endpoint) -> bool:
    """Return whether the peer is a node that the selector selects.

    "It selects the nodeIPs ... by matching on the IPs present in the node.Status.Addresses field of the node".
    """
    if peer.pod is not None and not peer.pod.host_network:
        return False
    return any(peer.ip in node.ips and selectors.matches(selector, node.labels) for node in view.nodes.values())


def namespace_matches(view: PolicyView, selector: Selector, namespace: str) -> bool:
    """Return whether a namespace selector selects a namespace. A namespace that is not known is never selected."""
    found = view.namespaces.get(Name("", namespace))
    return found is not None and selectors.matches(selector, found.labels)


def block_matches(block: IPBlock, ip: str) -> bool:
    """Return whether an IP block contains an address.

    "except is a slice of CIDRs that should not be included within an IPBlock".
    """
    address = ipaddress.ip_address(ip)
    if address not in ipaddress.ip_network(block.cidr):
        return False
    return not any(address in ipaddress.ip_network(exception) for exception in block.excepts)


def port_matches(rule_port: PolicyPort, destination: Pod | None, protocol: Protocol | None, port: int) -> bool:
    """Return whether one port of a rule matches.

    A port name means the destination pod's container port of this name and protocol.
    """
    if rule_port.protocol is not protocol:
        return False
    if rule_port.port is None:
        # "If this field is not provided, this matches all port names and numbers."
        return True
    if isinstance(rule_port.port, str):
        return port in resolve_named_port(destination.ports if destination else (), rule_port.port, rule_port.protocol)
    return rule_port.port <= port <= (rule_port.end_port or rule_port.port)


def resolve_named_port(ports: Sequence[NamedPort], name: str, protocol: Protocol) -> frozenset[int]:
    """Return the numbers that a port name has among a pod's container ports; there may be several."""
    return frozenset(named.port for named in ports if named.name == name and named.protocol is protocol)
