"""A manifest that is made of a policy reads as that policy again, or there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enrich.model import ClusterNetworkPolicy, NetworkPolicy
from enrich.parse.manifest import read_manifest
from enrich.parse.manifest_of import manifest_of
from enrich.parse.network_policy import NO_LABELS
from tests.enrich.history.advice.policies import cluster_policy, network_policy

LABELS = {
    "matchLabels": {"app": "web"},
    "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x", "y"]}],
}
PODS = {"pods": {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": LABELS}}
NETWORK_POLICIES: list[dict[str, Any]] = [
    {"podSelector": {}, "policyTypes": ["Ingress"]},
    {"podSelector": LABELS, "policyTypes": ["Ingress", "Egress"], "egress": [{}]},
    {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [
                    {"namespaceSelector": {}},
                    {"namespaceSelector": {}, "podSelector": LABELS},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                ],
                "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": "http"}, {"protocol": "SCTP"}],
            }
        ],
        "egress": [{"to": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}]}],
    },
]
CLUSTER_POLICIES: list[dict[str, Any]] = [
    {"tier": "Baseline", "subject": PODS, "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]},
    {
        "egress": [
            {"name": "dns", "action": "Pass", "to": [PODS, {"namespaces": LABELS}],
             "protocols": [{"destinationNamedPort": "dns"}, {"udp": {"destinationPort": {"number": 53}}}]},
            {"action": "Accept", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}, {"nodes": LABELS}],
             "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]},
        ]
    },
]  # fmt: skip
OLD_POLICIES: list[dict[str, Any]] = [
    {
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": {"name": "old"},
        "spec": {
            "priority": 3, "subject": {"namespaces": LABELS},
            "ingress": [{"action": "Allow", "from": [PODS], "ports": [
                {"portNumber": {"protocol": "TCP", "port": 80}}, {"namedPort": "http"},
                {"portRange": {"protocol": "UDP", "start": 5, "end": 5}}]}],
        },
    },
    {
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "BaselineAdminNetworkPolicy",
        "metadata": {"name": "default", "annotations": {"policy.network.gke.io/enable-logging": "true"}},
        "spec": {"subject": PODS, "egress": [{"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]},
    },
]  # fmt: skip


def same(policy: NetworkPolicy | ClusterNetworkPolicy) -> bool:
    found, mistakes = read_manifest(manifest_of(policy))
    return not mistakes and found == policy


@pytest.mark.parametrize("spec", NETWORK_POLICIES)
@pytest.mark.parametrize("audit", [False, True])
def test_a_network_policy(spec: dict[str, Any], audit: bool) -> None:
    policy = network_policy("db", spec, audit=audit)
    assert same(policy)
    found = manifest_of(policy)
    assert found is not None
    assert found["spec"] == spec


@pytest.mark.parametrize("spec", CLUSTER_POLICIES)
def test_a_cluster_network_policy(spec: dict[str, Any]) -> None:
    policy = cluster_policy("guard", spec)
    assert same(policy)
    found = manifest_of(policy)
    assert found is not None
    assert {name: found["spec"][name] for name in spec} == spec


@pytest.mark.parametrize("document", OLD_POLICIES)
def test_its_predecessors(document: dict[str, Any]) -> None:
    policy, mistakes = read_manifest(document)
    assert isinstance(policy, ClusterNetworkPolicy), mistakes
    assert manifest_of(policy) == document


def test_many_networks_are_as_many_peers_as_the_api_takes() -> None:
    networks = [f"10.{number}.0.0/16" for number in range(30)]
    rule = {"action": "Deny", "to": [{"networks": networks[:20]}, {"networks": networks[20:]}]}
    policy = cluster_policy("many", {"egress": [rule]})
    assert same(policy)


def test_what_could_not_be_read_is_never_written_as_something_else() -> None:
    """A selector that was unreadable selects nothing; without it, the policy would select every pod."""
    policy = network_policy("db", NETWORK_POLICIES[0])
    assert manifest_of(replace(policy, pods=NO_LABELS)) is None
    closed = cluster_policy("guard", {"ingress": [{"action": "Accept", "from": [{"namespaces": {}}]}]})
    nothing = replace(closed, ingress=(replace(closed.ingress[0], peers=()),))
    assert manifest_of(nothing) is None
