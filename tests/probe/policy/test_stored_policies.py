"""Policies with values that validation refuses today: the compiled entries answer as the pure engine does."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.model import ClusterNetworkPolicy, Name, Namespace, NetworkPolicy, Node, Pod, Protocol
from enrich.parse.objects import InvalidObjectError, parse
from enrich.policy.decide import is_connection_allowed
from enrich.policy.matching import Endpoint, PolicyView
from probe.policy.compiler import Compiler
from tests.enrich.parse.test_cluster_network_policy import document
from tests.enrich.parse.test_network_policy import policy
from tests.enrich.parse.test_stored_policies import BAD_PEERS, BAD_PORTS, CLUSTER_RULES
from tests.probe.policy.random_clusters import OWN, subjects
from tests.probe.policy.test_compiler_property import assert_agrees, ledger

WEB, DB, OTHER = (
    Pod("default", name, f"uid-{name}", {"app": name}, (f"10.0.0.{last}",), OWN) for last, name in
    ((1, "web"), (2, "db"), (3, "other"))
)  # fmt: skip


def view_with(*documents: dict[str, Any]) -> PolicyView:
    policies: dict[Name, NetworkPolicy] = {}
    cluster_policies: dict[Name, ClusterNetworkPolicy] = {}
    for number, written in enumerate(documents):
        named = {**written, "metadata": {**written["metadata"], "name": f"p{number}"}}
        problems: list[InvalidObjectError] = []
        read = parse(named, problems)
        assert problems
        if isinstance(read, NetworkPolicy):
            policies[read.key] = read
        elif isinstance(read, ClusterNetworkPolicy):
            cluster_policies[read.key] = read
    namespace = Namespace("default", "uid-ns", {"kubernetes.io/metadata.name": "default"})
    return PolicyView(
        pods={pod.key: pod for pod in (WEB, DB, OTHER)},
        namespaces={namespace.key: namespace},
        nodes={Name("", OWN): Node(OWN, "uid-node", {}, ("192.168.0.1",))},
        policies=policies,
        cluster_policies=cluster_policies,
        own_node=OWN,
    )


def test_an_old_value_in_one_policy_closes_no_other_pod() -> None:
    old = policy({"podSelector": {"matchLabels": {"app": "not a value"}}, "policyTypes": ["Ingress", "Egress"]})
    view = view_with(old)
    ends = [Endpoint(pod.ips[0], pod) for pod in (WEB, DB, OTHER)]
    for source in ends:
        for destination in ends:
            assert is_connection_allowed(view, source, destination, Protocol.TCP, 80)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_compiler_and_engine_agree_on_network_policies(direction: str) -> None:
    peers = "from" if direction == "ingress" else "to"
    good = {"podSelector": {"matchLabels": {"app": "web"}}}
    rules: list[dict[str, Any]] = [{peers: [good, bad], "ports": [{"port": 80}]} for bad in BAD_PEERS]
    rules += [{peers: [good], "ports": [{"port": 443}, bad]} for bad in BAD_PORTS]
    rules += [{peers: [bad]} for bad in BAD_PEERS]
    spec = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": [direction.capitalize()], direction: rules}
    nobody = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Newer"}]}, direction: [{}]}
    view = view_with(policy(spec), policy(nobody))
    with ledger() as numbers:
        assert_agrees(view, Compiler(numbers).compile(view, subjects(view)))


def test_compiler_and_engine_agree_on_cluster_network_policies() -> None:
    rules = [written for written, _ in CLUSTER_RULES]
    for first in range(len(rules)):
        view = view_with(document(egress=rules[first:] + rules[:first]))
        with ledger() as numbers:
            assert_agrees(view, Compiler(numbers).compile(view, subjects(view)))
