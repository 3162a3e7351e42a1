"""Why a rule's terms do not match, and what a rule that does says: in words, beside the predicates of the engine.

Each function here has a predicate in :mod:`enrich.policy.decide`, and finds something to say where that one says no,
and
nowhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from enrich.model import (
    ClusterRule,
    IPBlock,
    Labels,
    Name,
    Operator,
    Peer,
    Pod,
    PolicyPort,
    Protocol,
    Requirement,
    Rule,
    Selector,
)
from enrich.policy import selectors
from enrich.policy.decide import Traffic
from enrich.policy.matching import (
    Direction,
    Endpoint,
    PolicyView,
    namespace_matches,
    peer_matches,
    port_matches,
    resolve_named_port,
)

ICMP: Final = "ICMP"


class Mismatch(msgspec.Struct, frozen=True):
    """A term of a rule that did not match."""

    term: str
    """Where it stands, below the rule: ``from[0].podSelector``, ``ports``."""
    text: str
    """Why, in words."""


def rule_mismatches(
    view: PolicyView, namespace: str, rule: Rule | ClusterRule, traffic: Traffic
) -> tuple[Mismatch, ...]:
    """Every peer's first failed term, if no peer matches, and the ports, if none does. ``namespace``: the policy's."""
    side = "from" if traffic.direction is Direction.INGRESS else "to"
    misses: list[Mismatch] = []
    if not any(peer_matches(view, namespace, wanted, traffic.peer) for wanted in rule.peers):
        if isinstance(rule, ClusterRule):
            # Not by index: each of a peer's networks is one of ours.
            found = [cluster_peer_mismatch(view, wanted, traffic.peer) for wanted in rule.peers]
            misses += [Mismatch(f"{side}.{term}", text) for term, text in found]
            misses += [] if rule.peers else [Mismatch(side, "is not understood, and matches nothing")]
        else:
            found = [peer_mismatch(view, namespace, wanted, traffic.peer) for wanted in rule.peers]
            misses += [Mismatch(f"{side}[{index}].{term}", text) for index, (term, text) in enumerate(found)]
    ports = (traffic.destination, traffic.protocol, traffic.port)
    if rule.ports and not any(port_matches(wanted, *ports) for wanted in rule.ports):
        misses.append(Mismatch("ports", ports_mismatch(rule.ports, *ports)))
    return tuple(misses)


def peer_mismatch(view: PolicyView, namespace: str, wanted: Peer, peer: Endpoint) -> tuple[str, str]:
    """The first term of a NetworkPolicy's peer that fails, and why."""
    if wanted.ip_block is not None:
        return "ipBlock", block_mismatch(wanted.ip_block, peer.ip)
    first = "podSelector" if wanted.namespaces is None else "namespaceSelector"
    if peer.pod is None or peer.pod.host_network:
        return first, _no_pod(peer)
    if wanted.namespaces is None:
        if peer.pod.namespace != namespace:
            return first, f"means pods of namespace {namespace}, and {peer.pod.key} is in {peer.pod.namespace}"
    elif not namespace_matches(view, wanted.namespaces, peer.pod.namespace):
        return first, _namespace_miss(view, wanted.namespaces, peer.pod)
    return "podSelector", selector_mismatch(wanted.pods or Selector(), peer.pod.labels, f"pod {peer.pod.key}")


def cluster_peer_mismatch(view: PolicyView, wanted: Peer, peer: Endpoint) -> tuple[str, str]:
    """The first term of a ClusterNetworkPolicy's peer that fails, and why."""
    if wanted.ip_block is not None:
        return "networks", block_mismatch(wanted.ip_block, peer.ip)
    if wanted.nodes is not None:
        return "nodes", node_mismatch(view, wanted.nodes, peer)
    kind = "pods" if wanted.pods and wanted.pods.requirements else "namespaces"
    if peer.pod is None or peer.pod.host_network:
        return kind, _no_pod(peer)
    if wanted.namespaces is not None and not namespace_matches(view, wanted.namespaces, peer.pod.namespace):
        return kind, _namespace_miss(view, wanted.namespaces, peer.pod)
    return kind, selector_mismatch(wanted.pods or Selector(), peer.pod.labels, f"pod {peer.pod.key}")


def _no_pod(peer: Endpoint) -> str:
    return f"selects pods, and {peer.ip} is no pod's own address"


def _namespace_miss(view: PolicyView, wanted: Selector, pod: Pod) -> str:
    found = view.namespaces.get(Name("", pod.namespace))
    if found is None:
        return f"wants {selector_text(wanted)}, and namespace {pod.namespace} is not known"
    return selector_mismatch(wanted, found.labels, f"namespace {found.name}")


def node_mismatch(view: PolicyView, wanted: Selector, peer: Endpoint) -> str:
    """Why an address is none of the nodes' that are selected."""
    for node in view.nodes.values():
        if peer.ip in node.ips and (peer.pod is None or peer.pod.host_network):
            return selector_mismatch(wanted, node.labels, f"node {node.name}")
    return f"selects nodes, and {peer.ip} is no node's address"


def selector_mismatch(selector: Selector, labels: Labels, who: str) -> str:
    """The requirements that do not hold, and what is there instead."""
    failed = [one for one in selector.requirements if not selectors.requirement_matches(one, labels)]
    wanted = ", ".join(requirement_text(one) for one in failed)
    found = ", ".join(dict.fromkeys(_label(one.key, labels) for one in failed))
    return f"wants {wanted}, and {who} has {found}"


def _label(key: str, labels: Labels) -> str:
    return f"{key}={labels[key]}" if key in labels else f"no label {key}"


def block_mismatch(block: IPBlock, ip: str) -> str:
    """Why an address is not in a block, or in which hole of it."""
    address, cidr = ipaddress.ip_address(ip), ipaddress.ip_network(block.cidr)
    if address.version != cidr.version:
        return f"{block.cidr} is IPv{cidr.version}, and {ip} is IPv{address.version}"
    for hole in block.excepts:
        if address in cidr and address in ipaddress.ip_network(hole):
            return f"{ip} is in the exception {hole} of {block.cidr}"
    return f"{ip} is not in {block.cidr}"


def ports_mismatch(ports: Sequence[PolicyPort], destination: Pod | None, protocol: Protocol | None, port: int) -> str:
    """What the rule wants instead of the port, and what its names mean at the destination."""
    if protocol is None:
        return f"a rule with ports never matches {ICMP}, which has none: {_listed(map(port_text, ports))}"
    wanted = [_resolved(one, destination) for one in ports]
    return f"port {port}/{protocol.name} is not among {_listed(wanted)}"


def _resolved(wanted: PolicyPort, destination: Pod | None) -> str:
    """A port, and if it is a name, its numbers at the destination."""
    if not isinstance(wanted.port, str):
        return port_text(wanted)
    if destination is None:
        return f"{port_text(wanted)} (the destination is no pod: a name is no port of it)"
    numbers = sorted(resolve_named_port(destination.ports, wanted.port, wanted.protocol))
    meaning = f"{_listed(map(str, numbers))} on" if numbers else "no such port on"
    return f"{port_text(wanted)} ({meaning} pod {destination.key})"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)


# --- what a rule says


def rule_text(view: PolicyView, namespace: str, rule: Rule | ClusterRule, traffic: Traffic) -> str:
    """A rule that matches: the peers by which it does, and all its ports."""
    side = "from" if traffic.direction is Direction.INGRESS else "to"
    hits = [peer_text(one, namespace) for one in rule.peers if peer_matches(view, namespace, one, traffic.peer)]
    by = f"{side} {' and '.join(hits) or 'anywhere'}"
    return f"{by}, port {_listed(map(port_text, rule.ports))}" if rule.ports else f"{by}, every port and protocol"


def peer_text(peer: Peer, namespace: str) -> str:
    """Whom a peer means."""
    if peer.ip_block is not None:
        holes = f" except {_listed(peer.ip_block.excepts)}" if peer.ip_block.excepts else ""
        return f"{peer.ip_block.cidr}{holes}"
    if peer.nodes is not None:
        return f"nodes {selector_text(peer.nodes)}" if peer.nodes.requirements else "every node"
    pods = "all pods" if peer.pods is None or not peer.pods.requirements else f"pods {selector_text(peer.pods)}"
    if peer.namespaces is None:
        return f"{pods} in namespace {namespace}"
    wanted = peer.namespaces
    return f"{pods} in {'every namespace' if not wanted.requirements else f'namespaces {selector_text(wanted)}'}"


def port_text(port: PolicyPort) -> str:
    """A port as people write it: ``443/TCP``, ``8000-8080/TCP``, ``http/TCP``, ``any/UDP``."""
    number = "any" if port.port is None else str(port.port)
    last = f"-{port.end_port}" if port.end_port not in (None, port.port) else ""
    return f"{number}{last}/{port.protocol.name}"


def selector_text(selector: Selector) -> str:
    """A selector as people write it: ``app=web, tier in (a, b), !old``."""
    return _listed(requirement_text(one) for one in selector.requirements) or "any labels"


def requirement_text(one: Requirement) -> str:
    """One requirement, as kubectl writes it."""
    values = _listed(one.values)
    match one.operator:
        case Operator.IN:
            return f"{one.key}={values}" if len(one.values) == 1 else f"{one.key} in ({values})"
        case Operator.NOT_IN:
            return f"{one.key}!={values}" if len(one.values) == 1 else f"{one.key} notin ({values})"
        case Operator.EXISTS:
            return f"{one.key} (any value)"
        case Operator.DOES_NOT_EXIST:
            return f"no label {one.key}"
