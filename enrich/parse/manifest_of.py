"""Writes policies as documents of the Kubernetes API: what the parsers read, in the other direction.

A parsed policy has what the policy engine needs. It lacks labels, other annotations, the status, and everything that
could not be read. So :func:`manifest_of` writes only what reads as the same policy again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from enrich.label_selector import Operator, Selector
from enrich.model import (
    POLICY_API_VERSIONS,
    Action,
    AdminNetworkPolicy,
    ClusterNetworkPolicy,
    ClusterRule,
    NetworkPolicy,
    Peer,
    Policy,
    PolicyPort,
    Protocol,
    Rule,
)
from enrich.parse.manifest import read_manifest
from enrich.parse.metadata import LOGGING, MODE

Document = dict[str, Any]
_MAX_NETWORKS: Final = 25
"""Networks of one peer."""
_OLD_ACTIONS: Final = {Action.ACCEPT: "Allow", Action.DENY: "Deny", Action.PASS: "Pass"}


def manifest_of(policy: Policy) -> Document | None:
    """Return the manifest of a policy; None if no manifest reads as this policy, because a part of it was unreadable
    when it was parsed."""
    annotations = {MODE: "audit"} if policy.audit else {}
    if policy.logging is not None:
        annotations[LOGGING] = policy.logging
    metadata: Document = {"name": policy.name}
    if policy.key.namespace:
        metadata["namespace"] = policy.key.namespace
    if annotations:
        metadata["annotations"] = annotations
    made = {
        "apiVersion": POLICY_API_VERSIONS[type(policy)],
        "kind": type(policy).__name__,
        "metadata": metadata,
        "spec": _spec(policy) if isinstance(policy, NetworkPolicy) else _tiered_spec(policy),
    }
    read, _ = read_manifest(made)
    if not isinstance(read, NetworkPolicy | ClusterNetworkPolicy) or replace(read, uid=policy.uid) != policy:
        return None
    return made


def _spec(policy: NetworkPolicy) -> Document:
    sections = [("Ingress", "from", policy.ingress), ("Egress", "to", policy.egress)]
    made: Document = {
        "podSelector": selector(policy.pods),
        "policyTypes": [name for name, _, rules in sections if rules is not None],
    }
    return made | {name.lower(): [rule(one, peers) for one in rules] for name, peers, rules in sections if rules}


def rule(found: Rule, peers: str) -> Document:
    """Return a rule; ``peers`` is the name of the field that has them: ``from`` or ``to``."""
    made: Document = {}
    if found.peers:
        made[peers] = [peer(one) for one in found.peers]
    if found.ports:
        made["ports"] = [port(one) for one in found.ports]
    return made


def peer(found: Peer) -> Document:
    """Return a peer of a rule."""
    made: Document = {}
    if found.ip_block is not None:
        block: Document = {"cidr": found.ip_block.cidr}
        if found.ip_block.excepts:
            block["except"] = list(found.ip_block.excepts)
        made["ipBlock"] = block
    if found.namespaces is not None:
        made["namespaceSelector"] = selector(found.namespaces)
    if found.pods is not None:
        made["podSelector"] = selector(found.pods)
    return made


def port(found: PolicyPort) -> Document:
    """Return a port of a rule."""
    made: Document = {"protocol": found.protocol.name}
    if found.port is not None:
        made["port"] = found.port
    if found.end_port is not None:
        made["endPort"] = found.end_port
    return made


def selector(found: Selector) -> Document:
    """Return a label selector."""
    labels = {one.key: one.values[0] for one in found.requirements if _is_label(one.operator, one.values)}
    expressions = [
        {"key": one.key, "operator": one.operator.value, **({"values": list(one.values)} if one.values else {})}
        for one in found.requirements
        if not _is_label(one.operator, one.values)
    ]
    return {**({"matchLabels": labels} if labels else {}), **({"matchExpressions": expressions} if expressions else {})}


def _is_label(operator: Operator, values: tuple[str, ...]) -> bool:
    return operator is Operator.IN and len(values) == 1


# --- the kinds of the Admin and the Baseline tier


def _tiered_spec(policy: ClusterNetworkPolicy) -> Document:
    made: Document = {}
    if type(policy) is ClusterNetworkPolicy:
        made["tier"] = policy.tier.name.capitalize()
    if type(policy) in (ClusterNetworkPolicy, AdminNetworkPolicy):
        made["priority"] = policy.priority
    made["subject"] = _namespaced(policy.namespaces, policy.pods)
    is_new = type(policy) is ClusterNetworkPolicy
    for name, peers, rules in (("ingress", "from", policy.ingress), ("egress", "to", policy.egress)):
        if rules:
            made[name] = [_tiered_rule(one, peers, is_new=is_new) for one in rules]
    return made


def _tiered_rule(found: ClusterRule, peers: str, *, is_new: bool) -> Document:
    """Return a rule of a ClusterNetworkPolicy (``is_new``), or of one of its predecessors."""
    action = found.action.value if is_new else _OLD_ACTIONS[found.action]
    made: Document = {"name": found.name} if found.name else {}
    made |= {"action": action, peers: list(_tiered_peers(found.peers))}
    if found.ports:
        ports = _tiered_ports(found.ports, "destinationNamedPort" if is_new else "namedPort")
        made["protocols" if is_new else "ports"] = [
            one if isinstance(one, dict) else _protocol(one) if is_new else _old_port(one) for one in ports
        ]
    return made


def _namespaced(namespaces: Selector, pods: Selector) -> Document:
    if pods == Selector():
        return {"namespaces": selector(namespaces)}
    return {"pods": {"namespaceSelector": selector(namespaces), "podSelector": selector(pods)}}


def _tiered_peers(peers: Sequence[Peer]) -> Iterator[Document]:
    """Yield peers. Networks that follow one another are one."""
    for is_block, group in itertools.groupby(peers, lambda one: one.ip_block is not None):
        if is_block:
            cidrs = [one.ip_block.cidr for one in group if one.ip_block is not None]
            for begin in range(0, len(cidrs), _MAX_NETWORKS):
                yield {"networks": cidrs[begin : begin + _MAX_NETWORKS]}
            continue
        for one in group:
            if one.nodes is not None:
                yield {"nodes": selector(one.nodes)}
            else:
                yield _namespaced(one.namespaces or Selector(), one.pods or Selector())


def _tiered_ports(ports: Sequence[PolicyPort], named: str) -> Iterator[PolicyPort | Document]:
    """Yield ports, and for a port's name, which is one of each protocol, what has it in the field ``named``."""
    rest = list(ports)
    while rest:
        first = rest[0]
        if isinstance(first.port, str):
            yield {named: first.port}
            del rest[: len(Protocol)]
        else:
            yield rest.pop(0)


def _protocol(found: PolicyPort) -> Document:
    number: Document = {"number": found.port}
    if found.end_port is not None:
        number = {"range": {"start": found.port, "end": found.end_port}}
    return {found.protocol.name.lower(): {"destinationPort": number}}


def _old_port(found: PolicyPort) -> Document:
    protocol = {"protocol": found.protocol.name}
    if found.end_port is not None:
        return {"portRange": {**protocol, "start": found.port, "end": found.end_port}}
    return {"portNumber": {**protocol, "port": found.port}}
