"""Policies for tests of advice, as the strict parser reads them."""

from __future__ import annotations

from typing import Any

from enrich.model import ClusterNetworkPolicy, NetworkPolicy
from enrich.parse.manifest import read_manifest


def network_policy(name: str, spec: dict[str, Any], namespace: str = "shop", *, audit: bool = False) -> NetworkPolicy:
    """Make a NetworkPolicy."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if audit:
        metadata["annotations"] = {"kubeweir.io/mode": "audit"}
    made, mistakes = read_manifest(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    )
    assert isinstance(made, NetworkPolicy), mistakes
    return made


def cluster_policy(name: str, spec: dict[str, Any], *, audit: bool = False) -> ClusterNetworkPolicy:
    """Make a ClusterNetworkPolicy of the Admin tier for all namespaces."""
    metadata: dict[str, Any] = {"name": name}
    if audit:
        metadata["annotations"] = {"kubeweir.io/mode": "audit"}
    made, mistakes = read_manifest(
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": metadata,
            "spec": {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}, **spec},
        }
    )
    assert isinstance(made, ClusterNetworkPolicy), mistakes
    return made


def from_web(port: int | str = 5432, **more: Any) -> dict[str, Any]:
    """Return a spec for db that lets web in."""
    return {
        "podSelector": {"matchLabels": {"app": "db"}},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"protocol": "TCP", "port": port}]}
        ],
        **more,
    }
