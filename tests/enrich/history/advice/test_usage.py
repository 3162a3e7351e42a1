"""How policies were used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from enrich.history.advice import usage as module
from enrich.history.advice.usage import PolicyUse, RuleUse, Versions, usage
from enrich.history.versions import Version
from enrich.model import Name, Policy
from enrich.policy.matching import Direction
from enrich.wire.batch import Reason
from enrich.wire.journal import Profile
from enrich.wire.pair import HOUR_NS, Pair
from enrich.wire.references import PolicyRef
from tests.enrich.history.advice.policies import cluster_policy, from_web, network_policy
from tests.enrich.history.advice.shop import BACKUP, DB, HOUR, NAME_LABEL, PROFILES, WEB, pair, profile, view

SINCE = (HOUR - 10) * HOUR_NS
DENY_22 = {
    "ingress": [
        {
            "action": "Deny",
            "from": [{"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 22}}}],
        }
    ]
}


def use_of(
    policies: Sequence[Policy],
    *pairs: Pair,
    versions: Versions = lambda _kind, _namespace, _name: (),
    profiles: Mapping[str, Profile] = PROFILES,
    **more: Any,
) -> dict[str, PolicyUse]:
    own = {one.key: one for one in policies if one.key.namespace}
    tiers = {one.key: one for one in policies if not one.key.namespace}
    state = view(policies=own, cluster_policies=tiers)
    return {one.policy.name: one for one in usage(state, profiles, pairs, versions, SINCE, **more)}


def rule_of(use: PolicyUse, index: int = 0, direction: Direction = Direction.INGRESS) -> RuleUse:
    return next(one for one in use.rules if (one.direction, one.index) == (direction, index))


def allowed_by(name: str, rule: int = 0, **more: Any) -> Pair:
    refs = (PolicyRef("NetworkPolicy", "shop", name, rule),)
    return pair(DB, "ingress", WEB, 5432, reason=Reason.POLICY, policies=refs, **more)


def version(policy: Policy, seen_ns: int) -> Version:
    return Version(type(policy).__name__, policy.key.namespace, policy.name, seen_ns, policy)


def test_a_rule_that_decided_is_used_and_another_was_not_seen() -> None:
    spec = from_web()
    spec["ingress"].append({"from": [{"podSelector": {"matchLabels": {"app": "backup"}}}]})
    found = use_of([network_policy("db", spec)], allowed_by("db"), allowed_by("db", hour=HOUR - 1))["db"]
    assert [str(one) for one in found.workloads or ()] == ["StatefulSet/db"]
    assert found.uses.allowed == 20
    assert rule_of(found).state == "used"
    assert rule_of(found).uses.last_ns == (HOUR + 1) * HOUR_NS - 1
    assert rule_of(found, 1).state == "not seen"


def test_denials_count_for_the_policies_that_isolate() -> None:
    refs = (PolicyRef("NetworkPolicy", "shop", "db"),)
    found = use_of([network_policy("db", from_web())], pair(DB, "ingress", BACKUP, 22, "deny", policies=refs))["db"]
    assert found.uses.denied == 10
    assert rule_of(found).state == "not seen"


def test_a_pair_counts_only_for_the_rule_that_the_index_meant_then() -> None:
    old, new = network_policy("db", from_web(3306)), network_policy("db", from_web())
    changed = (HOUR - 1) * HOUR_NS + HOUR_NS // 2

    def versions(_kind: str, _namespace: str, _name: str) -> list[Version]:
        return [version(old, SINCE - 5), version(new, changed), version(replace(new, logging="true"), changed + 5)]

    earlier, within, later = (allowed_by("db", hour=hour) for hour in (HOUR - 2, HOUR - 1, HOUR))
    assert rule_of(use_of([new], earlier, versions=versions)["db"]).state == "not seen"
    assert rule_of(use_of([new], earlier, versions=versions)["db"]).since_ns == changed
    assert rule_of(use_of([new], within, versions=versions)["db"]).state == "cannot say"
    assert rule_of(use_of([new], within, later, versions=versions)["db"]).state == "used"
    assert use_of([new], earlier, versions=versions)["db"].uses.allowed == 10


def test_near_a_change_it_is_not_known_which_rule_the_kernel_had() -> None:
    old, new = network_policy("db", from_web(3306)), network_policy("db", from_web())
    changed, second_ns = HOUR * HOUR_NS, 1_000_000_000

    def versions(_kind: str, _namespace: str, _name: str) -> list[Version]:
        return [version(old, SINCE - 5), version(new, changed)]

    def state(first_s: int, last_s: int) -> str:
        times = {"first_ns": changed + first_s * second_ns, "last_ns": changed + last_s * second_ns}
        seen = msgspec.structs.replace(allowed_by("db"), **times)
        return rule_of(use_of([new], seen, versions=versions)["db"]).state

    assert [state(-90, -40), state(-90, -20), state(10, 900), state(70, 900)] == [
        "not seen", "cannot say", "cannot say", "used",
    ]  # fmt: skip


def test_a_pair_counts_only_since_a_cluster_policy_has_selected_its_namespace() -> None:
    old = cluster_policy("no-ssh", DENY_22 | {"subject": {"namespaces": {"matchLabels": {NAME_LABEL: "data"}}}})
    new = cluster_policy("no-ssh", DENY_22)
    changed = (HOUR - 1) * HOUR_NS + HOUR_NS // 2

    def versions(_kind: str, _namespace: str, _name: str) -> list[Version]:
        return [version(old, SINCE - 5), version(new, changed)]

    refs = (PolicyRef("ClusterNetworkPolicy", "", "no-ssh", 0),)
    earlier = pair(DB, "ingress", WEB, 22, "deny", hour=HOUR - 2, reason=Reason.POLICY, policies=refs)
    rule = rule_of(use_of([new], earlier, versions=versions)["no-ssh"])
    assert (rule.since_ns, rule.state) == (changed, "not seen")


def test_a_policy_that_selects_no_pods() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "nobody"}}, "ingress": [{}]}
    found = use_of([network_policy("none", spec)])["none"]
    assert found.workloads == ()
    assert rule_of(found).state == "selects nobody"


def test_whom_labels_select_that_profiles_leave_out_is_not_known() -> None:
    spec = {"podSelector": {"matchLabels": {"pod-template-hash": "7f9c"}}, "ingress": [{}]}
    found = use_of([network_policy("hash", spec)])["hash"]
    assert found.workloads is None
    assert rule_of(found).state == "not seen"
    by_app = network_policy("app", {"podSelector": {"matchLabels": {"app": "web"}}})
    assert use_of([by_app])["app"].workloads
    # Earlier in the window the workers left out another label.
    without = profile("shop", "Deployment/web", {}, left_out=("app",))
    found = use_of([network_policy("hash", spec)], profiles={"n": without})["hash"]
    assert found.workloads == (), "this writer did not leave it out"
    assert use_of([by_app], profiles={**PROFILES, "n": without})["app"].workloads is None


def test_whom_a_policy_selects_is_not_known_where_a_profile_did_not_fit_the_journal() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "nobody"}}, "ingress": [{}]}
    assert use_of([network_policy("none", spec)], refused=["shop"])["none"].workloads is None
    assert use_of([network_policy("none", spec)], refused=["edge"])["none"].workloads == ()
    in_shop = {"subject": {"namespaces": {"matchLabels": {NAME_LABEL: "shop"}}}, **DENY_22}
    assert use_of([cluster_policy("c", in_shop)], refused=["shop"])["c"].workloads is None
    assert use_of([cluster_policy("c", in_shop)], refused=["edge"])["c"].workloads


def test_a_rule_behind_a_wider_one_of_the_admin_tier_is_shadowed() -> None:
    found = use_of([network_policy("db", from_web(22)), cluster_policy("no-ssh", DENY_22)])
    assert rule_of(found["db"]).state == "shadowed"
    assert rule_of(found["db"]).by == PolicyRef("ClusterNetworkPolicy", "", "no-ssh", 0)
    assert rule_of(found["no-ssh"]).state == "not seen"


def test_a_narrower_an_audited_or_a_passing_rule_shadows_nothing() -> None:
    own = network_policy("db", from_web(22))
    narrower = cluster_policy("no-ssh", {**DENY_22, "subject": {"namespaces": {"matchLabels": {"team": "a"}}}})
    passing = cluster_policy("no-ssh", {"ingress": [{**DENY_22["ingress"][0], "action": "Pass"}]})
    for other in (narrower, passing, cluster_policy("no-ssh", DENY_22, audit=True)):
        assert rule_of(use_of([own, other])["db"]).state == "not seen"


def test_a_later_rule_of_the_same_tier_is_shadowed_also_by_pass() -> None:
    rule = DENY_22["ingress"][0]
    first = cluster_policy("a", {"priority": 1, "ingress": [{**rule, "action": "Pass"}, rule]})
    found = use_of([first, cluster_policy("b", DENY_22)])
    assert rule_of(found["a"]).state == "not seen"
    assert rule_of(found["a"], 1).state == "shadowed"
    assert rule_of(found["b"]).by == PolicyRef("ClusterNetworkPolicy", "", "a", 0)


def test_a_rule_adds_nothing_beside_a_wider_one() -> None:
    wide = {**from_web(), "ingress": [{"from": [{"podSelector": {}}]}]}
    found = use_of([network_policy("db", from_web()), network_policy("wide", wide)], allowed_by("db"))
    assert rule_of(found["db"]).state == "adds nothing"
    assert rule_of(found["db"]).by == PolicyRef("NetworkPolicy", "shop", "wide", 0)
    assert rule_of(found["wide"]).state == "not seen"


def test_of_two_equal_rules_only_one_adds_nothing() -> None:
    found = use_of([network_policy("a", from_web()), network_policy("b", from_web())])
    assert [rule_of(found[name]).state for name in "ab"] == ["not seen", "adds nothing"]


def test_an_audited_rule_does_not_allow_the_same() -> None:
    found = use_of([network_policy("a", from_web(), audit=True), network_policy("b", from_web())])
    assert [rule_of(found[name]).state for name in "ab"] == ["not seen", "not seen"]
    assert found["a"].audited


def test_a_namespace_chooses_its_own_policies() -> None:
    own, other = network_policy("db", from_web()), network_policy("db", from_web(), "edge")
    tiers = {Name("", "c"): cluster_policy("c", {})}
    state = view(policies={one.key: one for one in (own, other)}, cluster_policies=tiers)
    found = usage(state, PROFILES, (), lambda *_names: (), SINCE, "shop")
    assert [one.policy for one in found] == [own]


def test_pods_of_a_nodes_network_are_selected_by_nobody() -> None:
    host = profile("shop", "DaemonSet/agent", {"app": "agent"}, host_network=True)
    everybody = network_policy("all", {"podSelector": {}, "ingress": []})
    state = view(policies={everybody.key: everybody})
    (found,) = usage(state, {"0123456789abcdef": host}, (), lambda *_names: (), SINCE)
    assert found.workloads == ()


def test_a_policy_is_only_compared_with_what_is_in_its_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the work grows with the square of a cluster."""
    asked: list[object] = []

    def counted(real: Callable[..., bool], *given: Any) -> bool:
        asked.append(given)
        return real(*given)

    for name in ("isolates", "is_audited"):
        monkeypatch.setattr(module, name, partial(counted, getattr(module, name)))
    names = [f"ns{number}" for number in range(50)]
    policies = [network_policy("db", from_web(), name) for name in names]
    profiles = {name: profile(name, "Deployment/web", {"app": "web"}) for name in names}
    found = usage(view(policies={one.key: one for one in policies}), profiles, (), lambda *_names: (), SINCE)
    assert len(found) == 50
    assert 50 * 3 <= len(asked) < 50 * 10
