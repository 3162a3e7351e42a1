"""Why a rule's terms do not match, and what a rule that does says: in words, beside the predicates of the engine.

Each function here has a predicate in :mod:`enrich.policy`, and finds something to say where that one says no, and
nowhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from enrich import selectors
from enrich.model import IPBlock, Labels, Name, Operator, Peer, Pod, PolicyPort, Protocol, Requirement, Rule, Selector
from enrich.policy import Direction, Endpoint, PolicyView, peer_matches, port_matches, resolve

ICMP: Final = "ICMP"


class Miss(msgspec.Struct, frozen=True):
    """A term of a rule that did not match."""

    term: str
    """Where it stands, below the rule: ``from[0].podSelector``, ``ports``."""
    text: str
    """Why, in words."""


def rule_misses(
    view: PolicyView,
    namespace: str,
    rule: Rule,
    direction: Direction,
    ends: tuple[Endpoint, Pod | None],
    protocol: Protocol | None,
    port: int,
) -> tuple[Miss, ...]:
    """Every peer's first failed term, if no peer matches, and the ports, if none does. ``ends``: the peer, and the
    destination's pod."""
    peer, destination = ends
    misses: list[Miss] = []
    if rule.peers and not any(peer_matches(view, namespace, wanted, peer) for wanted in rule.peers):
        side = "from" if direction is Direction.INGRESS else "to"
        for index, wanted in enumerate(rule.peers):
            term, text = peer_miss(view, namespace, wanted, peer)
            misses.append(Miss(f"{side}[{index}].{term}", text))
    if rule.ports and not any(port_matches(wanted, destination, protocol, port) for wanted in rule.ports):
        misses.append(Miss("ports", ports_miss(rule.ports, destination, protocol, port)))
    return tuple(misses)


def peer_miss(view: PolicyView, namespace: str, wanted: Peer, peer: Endpoint) -> tuple[str, str]:
    """The first term of a peer that fails, and why."""
    if wanted.ip_block is not None:
        return "ipBlock", block_miss(wanted.ip_block, peer.ip)
    first = "podSelector" if wanted.namespaces is None else "namespaceSelector"
    if peer.pod is None:
        return first, f"selects pods, and {peer.ip} is no pod's own address"
    if wanted.namespaces is None:
        if peer.pod.namespace != namespace:
            return first, f"means pods of namespace {namespace}, and {peer.pod.key} is in {peer.pod.namespace}"
    else:
        found = view.namespaces.get(Name("", peer.pod.namespace))
        if found is None:
            return first, f"wants {selector_words(wanted.namespaces)}, and namespace {peer.pod.namespace} is not known"
        if not selectors.matches(wanted.namespaces, found.labels):
            return first, selector_miss(wanted.namespaces, found.labels, f"namespace {found.name}")
    return "podSelector", selector_miss(wanted.pods or Selector(), peer.pod.labels, f"pod {peer.pod.key}")


def selector_miss(selector: Selector, labels: Labels, who: str) -> str:
    """The requirements that do not hold, and what is there instead."""
    failed = [one for one in selector.requirements if not selectors.holds(one, labels)]
    wanted = ", ".join(requirement_words(one) for one in failed)
    found = ", ".join(dict.fromkeys(_label(one.key, labels) for one in failed))
    return f"wants {wanted}, and {who} has {found}"


def _label(key: str, labels: Labels) -> str:
    return f"{key}={labels[key]}" if key in labels else f"no label {key}"


def block_miss(block: IPBlock, ip: str) -> str:
    """Why an address is not in a block, or in which hole of it."""
    address, cidr = ipaddress.ip_address(ip), ipaddress.ip_network(block.cidr)
    if address.version != cidr.version:
        return f"{block.cidr} is IPv{cidr.version}, and {ip} is IPv{address.version}"
    for hole in block.excepts:
        if address in cidr and address in ipaddress.ip_network(hole):
            return f"{ip} is in the exception {hole} of {block.cidr}"
    return f"{ip} is not in {block.cidr}"


def ports_miss(ports: Sequence[PolicyPort], destination: Pod | None, protocol: Protocol | None, port: int) -> str:
    """What the rule wants instead of the port, and what its names mean at the destination."""
    if protocol is None:
        return f"a rule with ports never matches {ICMP}, which has none: {_listed(map(port_words, ports))}"
    wanted = [_resolved(one, destination) for one in ports]
    return f"port {port}/{protocol.name} is not among {_listed(wanted)}"


def _resolved(wanted: PolicyPort, destination: Pod | None) -> str:
    """A port, and if it is a name, its numbers at the destination."""
    if not isinstance(wanted.port, str):
        return port_words(wanted)
    if destination is None:
        return f"{port_words(wanted)} (the destination is no pod: a name is no port of it)"
    numbers = sorted(resolve(destination.ports, wanted.port, wanted.protocol))
    meaning = f"{_listed(map(str, numbers))} on" if numbers else "no such port on"
    return f"{port_words(wanted)} ({meaning} pod {destination.key})"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)


# --- what a rule says


def rule_words(rule: Rule, direction: Direction, peer_hits: Sequence[int], namespace: str) -> str:
    """A rule that matches: the peers by which it does, and all its ports."""
    side = "from" if direction is Direction.INGRESS else "to"
    by = " and ".join(f"{side} {peer_words(rule.peers[index], namespace)}" for index in peer_hits) or f"{side} anywhere"
    return f"{by}, port {_listed(map(port_words, rule.ports))}" if rule.ports else f"{by}, every port and protocol"


def matching_peers(view: PolicyView, namespace: str, rule: Rule, peer: Endpoint) -> list[int]:
    """The peers of a rule that match, by index."""
    return [index for index, wanted in enumerate(rule.peers) if peer_matches(view, namespace, wanted, peer)]


def peer_words(peer: Peer, namespace: str) -> str:
    """Whom a peer means."""
    if peer.ip_block is not None:
        holes = f" except {_listed(peer.ip_block.excepts)}" if peer.ip_block.excepts else ""
        return f"{peer.ip_block.cidr}{holes}"
    pods = "all pods" if peer.pods is None or not peer.pods.requirements else f"pods {selector_words(peer.pods)}"
    if peer.namespaces is None:
        return f"{pods} in namespace {namespace}"
    wanted = peer.namespaces
    return f"{pods} in {'every namespace' if not wanted.requirements else f'namespaces {selector_words(wanted)}'}"


def port_words(port: PolicyPort) -> str:
    """A port as people write it: ``443/TCP``, ``8000-8080/TCP``, ``http/TCP``, ``any/UDP``."""
    number = "any" if port.port is None else str(port.port)
    last = f"-{port.end_port}" if port.end_port not in (None, port.port) else ""
    return f"{number}{last}/{port.protocol.name}"


def selector_words(selector: Selector) -> str:
    """A selector as people write it: ``app=web, tier in (a, b), !old``."""
    return _listed(requirement_words(one) for one in selector.requirements) or "any labels"


def requirement_words(one: Requirement) -> str:
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
