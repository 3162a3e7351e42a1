"""Changes of policies as the watch reports them, each with who made it if the source says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enrich.index.cluster import Cluster
from enrich.model import POLICY_API_VERSIONS, ClusterNetworkPolicy, NetworkPolicy
from enrich.parse.cursor import Field
from enrich.parse.network_policy import network_policy
from enrich.sources.versions import UNKNOWN, Observer, Version
from streams.alerts import policy_watch
from streams.alerts.policy_changes import MAX_BY, PolicyChange
from streams.alerts.policy_watch import PolicyWatch


class FakeSource:
    """Gives the index and the observer what a test says, in the order of a real source: the index first."""

    def __init__(self, _setting: str, cluster: Cluster, observer: Observer) -> None:
        self.cluster, self.observer = cluster, observer
        cluster.replace_all({kind: [] for kind in POLICY_API_VERSIONS})

    def stop(self) -> None:
        pass


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[PolicyChange]:
    monkeypatch.setattr(policy_watch, "start_source", FakeSource)
    return []


def policy(name: str = "allow", **spec: Any) -> NetworkPolicy:
    document = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name, "uid": f"u-{name}"}, "spec": {"podSelector": {}, **spec},
    }  # fmt: skip
    return network_policy(Field("", document))


def apply(watch: PolicyWatch, made: NetworkPolicy, version: Version) -> None:
    source: Any = watch.source
    source.cluster.replace(NetworkPolicy, [made])
    source.observer.set(made, version)


def test_a_change_names_who_made_it(found: list[PolicyChange]) -> None:
    watch = PolicyWatch("kubernetes", found.append)
    apply(watch, policy(), Version("1", 1, "argocd-controller"))
    apply(watch, policy(egress=[{}], policyTypes=["Egress"]), Version("2", 2, "kubectl-edit"))
    apply(watch, policy(), UNKNOWN)
    assert [(one.what.partition(" ")[0], one.by) for one in found] == [
        ("created", "argocd-controller"), ("updated", "kubectl-edit"), ("updated", ""),
    ]  # fmt: skip
    apply(watch, replace(policy(), uid="other"), Version("3", 1, "x" * 1000))
    assert (found[-1].what, found[-1].by) == ("replaced", "x" * MAX_BY)


def test_nobody_is_named_for_a_deletion(found: list[PolicyChange]) -> None:
    watch = PolicyWatch("kubernetes", found.append)
    apply(watch, policy(), Version("1", 1, "kubectl"))
    source: Any = watch.source
    source.cluster.replace(NetworkPolicy, [])
    source.observer.deleted(policy(), Version("2"))
    assert (found[-1].what, found[-1].by) == ("deleted", "")


def test_a_list_names_who_made_each_of_its_changes(found: list[PolicyChange]) -> None:
    watch = PolicyWatch("kubernetes", found.append)
    source: Any = watch.source
    source.cluster.replace(NetworkPolicy, [policy("a"), policy("b")])
    assert found == []
    source.observer.listed(ClusterNetworkPolicy, [])
    assert found == [], "they are of another kind"
    source.observer.listed(NetworkPolicy, [(policy("a"), Version("1", 1, "me")), (policy("b"), UNKNOWN)])
    assert sorted((one.policy, one.by) for one in found) == [
        ("NetworkPolicy shop/a", "me"), ("NetworkPolicy shop/b", ""),
    ]  # fmt: skip


def test_a_change_of_which_no_version_comes_is_reported_all_the_same(
    found: list[PolicyChange], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = PolicyWatch("kubernetes", found.append)
    monkeypatch.setattr(policy_watch, "_UNNAMED_S", -1.0)
    source: Any = watch.source
    monkeypatch.setattr(policy_watch, "watch_problem", lambda *_: None)
    source.cluster.replace(NetworkPolicy, [policy()])
    watch.problem()
    assert [(one.what, one.by) for one in found] == [("created", "")]
