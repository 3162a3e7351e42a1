"""What a NetworkPolicy means, as pure functions: the reference that the kernel's maps are compared with.

The wording in quotes is the API's (``networking.k8s.io/v1``, types.go). ``subject`` is the pod whose policy is judged,
``peer`` the other end. Nothing here is fast; :mod:`probe.rules` compiles the same meaning to map entries.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from enrich import selectors
from enrich.model import IPBlock, Name, NamedPort, Namespace, NetworkPolicy, Node, Peer, Pod, PolicyPort, Protocol, Rule
from enrich.records import PolicyRef, Reason


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
    own_node: str = ""
    """Name of the node that judges."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection: an address, and the pod that holds it, if one does."""

    ip: str
    pod: Pod | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of one side, and the policies behind it: all that allow, or all that isolate."""

    allowed: bool
    reason: Reason
    policies: tuple[PolicyRef, ...] = field(default=())


def endpoint(view: PolicyView, ip: str) -> Endpoint:
    """Who has this address. Terminated pods hold none; a hostNetwork pod is its node."""
    canonical = str(ipaddress.ip_address(ip))
    holders = [pod for pod in newest_last(view.pods.values()) if canonical in pod.ips]
    return Endpoint(canonical, holders[-1] if holders else None)


def newest_last(pods: Iterable[Pod]) -> list[Pod]:
    """Those that hold addresses of their own. Of two that claim one, the API has yet to take it from the older."""
    holders = (pod for pod in pods if not pod.host_network and not pod.terminated and pod.ips)
    return sorted(holders, key=lambda pod: (pod.started_ns, pod.uid))


def connection(view: PolicyView, source: Endpoint, destination: Endpoint, protocol: Protocol, port: int) -> bool:
    """Whether both ends let a new connection be. "Pods are isolated" at each end of their own."""
    sides = (
        decide(view, source.pod, Direction.EGRESS, destination, protocol, port) if source.pod else None,
        decide(view, destination.pod, Direction.INGRESS, source, protocol, port) if destination.pod else None,
    )
    return all(side is None or side.allowed for side in sides)


def decide(
    view: PolicyView, subject: Pod, direction: Direction, peer: Endpoint, protocol: Protocol | None, port: int
) -> Decision:
    """Whether the subject's policies let it connect to, or be connected from, the peer on the destination's port.

    ``protocol`` None: one that no policy names, as ICMP, which only rules without ports match.
    """
    if peer.ip in subject.ips:
        return Decision(allowed=True, reason=Reason.SELF)
    if _is_own_node(view, subject, peer):
        # "Traffic to and from the node where a Pod is running is always allowed" (the concept's page).
        return Decision(allowed=True, reason=Reason.NODE)
    isolating = [policy for policy in view.policies.values() if isolates(policy, subject, direction)]
    if not isolating:
        return Decision(allowed=True, reason=Reason.NO_POLICY)
    destination = peer.pod if direction is Direction.EGRESS else subject
    allowing = [
        ref for policy in isolating for ref in _allowing(view, policy, direction, peer, destination, protocol, port)
    ]
    if allowing:
        return Decision(allowed=True, reason=Reason.POLICY, policies=tuple(sorted(allowing, key=order)))
    refs = sorted((PolicyRef("NetworkPolicy", policy.namespace, policy.name) for policy in isolating), key=order)
    return Decision(allowed=False, reason=Reason.DEFAULT_DENY, policies=tuple(refs))


def order(ref: PolicyRef) -> tuple[str, str, str, int]:
    """How policies are listed."""
    return ref.kind, ref.namespace, ref.name, -1 if ref.rule is None else ref.rule


def isolates(policy: NetworkPolicy, subject: Pod, direction: Direction) -> bool:
    """ "podSelector selects the pods to which this NetworkPolicy object applies", in the policy's namespace."""
    rules = policy.egress if direction is Direction.EGRESS else policy.ingress
    if rules is None or policy.namespace != subject.namespace or subject.host_network:
        return False
    return selectors.matches(policy.pods, subject.labels)


def _is_own_node(view: PolicyView, subject: Pod, peer: Endpoint) -> bool:
    node = view.nodes.get(Name("", subject.node))
    return node is not None and peer.pod is None and peer.ip in node.ips


def _allowing(
    view: PolicyView,
    policy: NetworkPolicy,
    direction: Direction,
    peer: Endpoint,
    destination: Pod | None,
    protocol: Protocol | None,
    port: int,
) -> Iterator[PolicyRef]:
    """ "Traffic is allowed" if it "matches at least one rule across all of the NetworkPolicy objects"."""
    for index, rule in enumerate((policy.egress if direction is Direction.EGRESS else policy.ingress) or ()):
        if rule_matches(view, policy.namespace, rule, peer, destination, protocol, port):
            yield PolicyRef("NetworkPolicy", policy.namespace, policy.name, index)


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


def peer_matches(view: PolicyView, namespace: str, wanted: Peer, peer: Endpoint) -> bool:
    """One NetworkPolicyPeer. Selectors see pods only; an ipBlock sees any address, a pod's too."""
    if wanted.ip_block is not None:
        return block_matches(wanted.ip_block, peer.ip)
    if peer.pod is None:
        return False
    if wanted.namespaces is None:
        # "Otherwise it selects the pods matching podSelector in the policy's own namespace."
        if peer.pod.namespace != namespace:
            return False
    elif not _namespace_matches(view, wanted, peer.pod):
        return False
    # "If podSelector is also set ... Otherwise it selects all pods in the namespaces selected by namespaceSelector."
    return wanted.pods is None or selectors.matches(wanted.pods, peer.pod.labels)


def _namespace_matches(view: PolicyView, wanted: Peer, pod: Pod) -> bool:
    found = view.namespaces.get(Name("", pod.namespace))
    return found is not None and wanted.namespaces is not None and selectors.matches(wanted.namespaces, found.labels)


def block_matches(block: IPBlock, ip: str) -> bool:
    """ "except is a slice of CIDRs that should not be included within an IPBlock"."""
    address = ipaddress.ip_address(ip)
    if address not in ipaddress.ip_network(block.cidr):
        return False
    return not any(address in ipaddress.ip_network(hole) for hole in block.excepts)


def port_matches(wanted: PolicyPort, destination: Pod | None, protocol: Protocol | None, port: int) -> bool:
    """One NetworkPolicyPort. A name means the destination pod's container port of that name and protocol."""
    if protocol is None or wanted.protocol is not protocol:
        return False
    if wanted.port is None:
        # "If this field is not provided, this matches all port names and numbers."
        return True
    if isinstance(wanted.port, str):
        return port in resolve(destination.ports if destination else (), wanted.port, protocol)
    return wanted.port <= port <= (wanted.end_port or wanted.port)


def resolve(ports: Sequence[NamedPort], name: str, protocol: Protocol) -> frozenset[int]:
    """The numbers that a port's name has among a pod's named ports."""
    return frozenset(one.port for one in ports if one.name == name and one.protocol is protocol)
