"""Recommended policies as documents of the Kubernetes API."""

from __future__ import annotations

from typing import Any, Final

from enrich.history.advice.recommend import RecommendedPolicy
from enrich.label_selector import Operator, Selector
from enrich.model import POLICY_API_VERSIONS, NetworkPolicy, Peer, PolicyPort, Rule

Document = dict[str, Any]
AUDIT: Final = {"kubeweir.io/mode": "audit"}


def head(policy: RecommendedPolicy, *, audit: bool) -> Document:
    """Return everything of the manifest but the rules."""
    metadata: Document = {"name": policy.name, "namespace": policy.scope.namespace}
    if audit:
        metadata["annotations"] = dict(AUDIT)
    return {
        "apiVersion": POLICY_API_VERSIONS[NetworkPolicy],
        "kind": NetworkPolicy.__name__,
        "metadata": metadata,
        "spec": {"podSelector": selector(policy.scope.selector), "policyTypes": ["Ingress", "Egress"]},
    }


def document(policy: RecommendedPolicy, *, audit: bool) -> Document:
    """Return the whole manifest."""
    made = head(policy, audit=audit)
    namespace = policy.scope.namespace
    for field, peers, rules in (("ingress", "from", policy.ingress), ("egress", "to", policy.egress)):
        if rules:
            made["spec"][field] = [rule(one.rule(namespace), peers) for one in rules]
    return made


def rule(found: Rule, peers: str) -> Document:
    """Return a rule; ``peers`` is the name of the field that has them: ``from`` or ``to``."""
    return {peers: [peer(one) for one in found.peers], "ports": [port(one) for one in found.ports]}


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
    return {"protocol": found.protocol.name, "port": found.port}


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
