"""Puts into words why a rule does not match, and what a rule that matches says.

Each ``..._mismatch`` function stands beside a predicate of :mod:`enrich.policy.matching`. It returns a reason exactly
where the predicate returns False.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import ClusterRule, IPBlock, Labels, Name, Peer, Pod, PolicyPort, Protocol, Rule
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
    """A part of a rule that does not match the connection."""

    term: str
    """Path of the part below the rule: ``from[0].podSelector``, ``ports``."""
    text: str
    """What the part requires, and what is there instead."""


def rule_mismatches(
    view: PolicyView, namespace: str, rule: Rule | ClusterRule, traffic: Traffic
) -> tuple[Mismatch, ...]:
    """Return why a rule does not match; nothing if it matches. ``namespace`` is the policy's.

    If no peer of the rule matches, that is the first part of each peer that fails. If no port matches, the ports.
    """
    field = "from" if traffic.direction is Direction.INGRESS else "to"
    mismatches: list[Mismatch] = []
    if not any(peer_matches(view, namespace, rule_peer, traffic.peer) for rule_peer in rule.peers):
        if isinstance(rule, ClusterRule):
            # Without an index: the parser makes one peer of each CIDR in a peer's `networks`.
            found = [cluster_peer_mismatch(view, rule_peer, traffic.peer) for rule_peer in rule.peers]
            mismatches += [Mismatch(f"{field}.{part}", text) for part, text in found]
            mismatches += [] if rule.peers else [Mismatch(field, "could not be read, so it matches nothing")]
        else:
            found = [peer_mismatch(view, namespace, rule_peer, traffic.peer) for rule_peer in rule.peers]
            mismatches += [Mismatch(f"{field}[{index}].{part}", text) for index, (part, text) in enumerate(found)]
    connection = (traffic.destination, traffic.protocol, traffic.port)
    if rule.ports and not any(port_matches(rule_port, *connection) for rule_port in rule.ports):
        mismatches.append(Mismatch("ports", ports_mismatch(rule.ports, *connection)))
    return tuple(mismatches)


def peer_mismatch(view: PolicyView, namespace: str, rule_peer: Peer, peer: Endpoint) -> tuple[str, str]:
    """Return the first part of a NetworkPolicy's peer that fails, and why."""
    if rule_peer.ip_block is not None:
        return "ipBlock", block_mismatch(rule_peer.ip_block, peer.ip)
    first = "podSelector" if rule_peer.namespaces is None else "namespaceSelector"
    if peer.pod is None or peer.pod.host_network:
        return first, _not_a_pod(peer)
    if rule_peer.namespaces is None:
        if peer.pod.namespace != namespace:
            return first, f"selects only pods of namespace {namespace}, but {peer.pod.key} is in {peer.pod.namespace}"
    elif not namespace_matches(view, rule_peer.namespaces, peer.pod.namespace):
        return first, _namespace_mismatch(view, rule_peer.namespaces, peer.pod)
    pods = rule_peer.pods or Selector()
    return "podSelector", selector_mismatch(pods, peer.pod.labels, f"pod {peer.pod.key}")


def cluster_peer_mismatch(view: PolicyView, rule_peer: Peer, peer: Endpoint) -> tuple[str, str]:
    """Return the first part of a ClusterNetworkPolicy's peer that fails, and why."""
    if rule_peer.ip_block is not None:
        return "networks", block_mismatch(rule_peer.ip_block, peer.ip)
    if rule_peer.nodes is not None:
        return "nodes", node_mismatch(view, rule_peer.nodes, peer)
    part = "pods" if rule_peer.pods and rule_peer.pods.requirements else "namespaces"
    if peer.pod is None or peer.pod.host_network:
        return part, _not_a_pod(peer)
    if rule_peer.namespaces is not None and not namespace_matches(view, rule_peer.namespaces, peer.pod.namespace):
        return part, _namespace_mismatch(view, rule_peer.namespaces, peer.pod)
    return part, selector_mismatch(rule_peer.pods or Selector(), peer.pod.labels, f"pod {peer.pod.key}")


def _not_a_pod(peer: Endpoint) -> str:
    return f"selects pods, but {peer.ip} is not a pod's own address"


def _namespace_mismatch(view: PolicyView, selector: Selector, pod: Pod) -> str:
    namespace = view.namespaces.get(Name("", pod.namespace))
    if namespace is None:
        return f"requires {selector_text(selector)}, but namespace {pod.namespace} is not known"
    return selector_mismatch(selector, namespace.labels, f"namespace {namespace.name}")


def node_mismatch(view: PolicyView, selector: Selector, peer: Endpoint) -> str:
    """Return why an address is not that of a node which the selector selects."""
    for node in view.nodes.values():
        if peer.ip in node.ips and (peer.pod is None or peer.pod.host_network):
            return selector_mismatch(selector, node.labels, f"node {node.name}")
    return f"selects nodes, but {peer.ip} is not a node's address"


def selector_mismatch(selector: Selector, labels: Labels, who: str) -> str:
    """Return the requirements that the labels do not meet, and the labels that are there instead."""
    failed = [one for one in selector.requirements if not selectors.requirement_matches(one, labels)]
    required = _listed(requirement_text(requirement) for requirement in failed)
    present = _listed(dict.fromkeys(_label_text(requirement.key, labels) for requirement in failed))
    return f"requires {required}, but {who} has {present}"


def _label_text(key: str, labels: Labels) -> str:
    return f"{key}={labels[key]}" if key in labels else f"no label {key}"


def block_mismatch(block: IPBlock, ip: str) -> str:
    """Return why an IP block does not contain an address."""
    address, cidr = ipaddress.ip_address(ip), ipaddress.ip_network(block.cidr)
    if address.version != cidr.version:
        return f"{block.cidr} is IPv{cidr.version}, but {ip} is IPv{address.version}"
    for exception in block.excepts:
        if address in cidr and address in ipaddress.ip_network(exception):
            return f"{ip} is in the exception {exception} of {block.cidr}"
    return f"{ip} is not in {block.cidr}"


def ports_mismatch(ports: Sequence[PolicyPort], destination: Pod | None, protocol: Protocol | None, port: int) -> str:
    """Return which ports the rule lists instead, and what its port names mean at the destination."""
    if protocol is None:
        return f"a rule with ports never matches {ICMP}, which has no ports: {_listed(map(port_text, ports))}"
    listed = [_resolved_port_text(rule_port, destination) for rule_port in ports]
    return f"port {port}/{protocol.name} is not among {_listed(listed)}"


def _resolved_port_text(rule_port: PolicyPort, destination: Pod | None) -> str:
    """Return a port of a rule, and for a port name also its numbers at the destination."""
    if not isinstance(rule_port.port, str):
        return port_text(rule_port)
    if destination is None:
        return f"{port_text(rule_port)} (the destination is not a pod, so the name means no port)"
    numbers = sorted(resolve_named_port(destination.ports, rule_port.port, rule_port.protocol))
    meaning = f"{_listed(map(str, numbers))} on" if numbers else "no such port on"
    return f"{port_text(rule_port)} ({meaning} pod {destination.key})"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)


# --- what a rule says


def rule_text(view: PolicyView, namespace: str, rule: Rule | ClusterRule, traffic: Traffic) -> str:
    """Return a matching rule in words: those of its peers that match, and all its ports."""
    field = "from" if traffic.direction is Direction.INGRESS else "to"
    matching = [
        peer_text(rule_peer, namespace)
        for rule_peer in rule.peers
        if peer_matches(view, namespace, rule_peer, traffic.peer)
    ]
    peers = f"{field} {' and '.join(matching) or 'anywhere'}"
    if not rule.ports:
        return f"{peers}, every port and protocol"
    return f"{peers}, port {_listed(map(port_text, rule.ports))}"


def peer_text(peer: Peer, namespace: str) -> str:
    """Return one peer of a rule in words. ``namespace`` is the policy's."""
    if peer.ip_block is not None:
        exceptions = f" except {_listed(peer.ip_block.excepts)}" if peer.ip_block.excepts else ""
        return f"{peer.ip_block.cidr}{exceptions}"
    if peer.nodes is not None:
        return f"nodes {selector_text(peer.nodes)}" if peer.nodes.requirements else "every node"
    pods = "all pods" if peer.pods is None or not peer.pods.requirements else f"pods {selector_text(peer.pods)}"
    if peer.namespaces is None:
        return f"{pods} in namespace {namespace}"
    if not peer.namespaces.requirements:
        return f"{pods} in every namespace"
    return f"{pods} in namespaces {selector_text(peer.namespaces)}"


def port_text(port: PolicyPort) -> str:
    """Return a port as people write it: ``443/TCP``, ``8000-8080/TCP``, ``http/TCP``, ``any/UDP``."""
    number = "any" if port.port is None else str(port.port)
    last = f"-{port.end_port}" if port.end_port not in (None, port.port) else ""
    return f"{number}{last}/{port.protocol.name}"


def selector_text(selector: Selector) -> str:
    """Return a selector as people write it: ``app=web, tier in (a, b), no label old``."""
    return _listed(requirement_text(requirement) for requirement in selector.requirements) or "any labels"


def requirement_text(requirement: Requirement) -> str:
    """Return one requirement, as kubectl writes it where kubectl's form is clear."""
    key, values = requirement.key, _listed(requirement.values)
    match requirement.operator:
        case Operator.IN:
            return f"{key}={values}" if len(requirement.values) == 1 else f"{key} in ({values})"
        case Operator.NOT_IN:
            return f"{key}!={values}" if len(requirement.values) == 1 else f"{key} notin ({values})"
        case Operator.EXISTS:
            return f"{key} (any value)"
        case Operator.DOES_NOT_EXIST:
            return f"no label {key}"
