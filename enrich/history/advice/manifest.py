"""Recommended policies as documents of the Kubernetes API."""

from __future__ import annotations

from typing import Final

from enrich.history.advice.recommend import RecommendedPolicy
from enrich.model import POLICY_API_VERSIONS, NetworkPolicy
from enrich.parse.manifest_of import Document, rule, selector

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
