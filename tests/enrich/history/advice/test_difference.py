"""What two sets of policies decide differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.history.advice import difference as difference_module
from enrich.history.advice.difference import Change, Difference, Ports, TooManyKindsError
from enrich.history.advice.traffic import Question, question_of
from enrich.history.profile import number_of
from enrich.history.stand_ins import stand_in
from enrich.model import ClusterNetworkPolicy, NetworkPolicy, Node, Policy, Protocol
from enrich.policy.decide import decide
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import Reason
from enrich.wire.journal import Profile
from enrich.wire.references import PolicyRef
from tests.enrich.history.advice.policies import cluster_policy, from_web, network_policy
from tests.enrich.history.advice.shop import BACKUP, DB, ICMP, INGRESS, PROFILES, TCP, UDP, WEB, pair, profile, view
from tests.probe.policy.random_clusters import NAMES, PORTS, cluster_policies, network_policies


def state(policies: Sequence[Policy], *namespaces: str) -> PolicyView:
    own = {one.key: one for one in policies if isinstance(one, NetworkPolicy)}
    tiers = {one.key: one for one in policies if isinstance(one, ClusterNetworkPolicy)}
    return view(*namespaces, policies=own, cluster_policies=tiers)


def changes(old: Sequence[Policy], new: Sequence[Policy]) -> list[Change]:
    return Difference(state(old), state(new), PROFILES).changes()


def names(change: Change) -> set[str]:
    return {name for peer in change.peers for name in peer.names}


def test_equal_policies_change_nothing() -> None:
    assert not changes([network_policy("db", from_web())], [network_policy("db", from_web())])


def test_a_policy_that_isolates_denies_all_but_what_it_allows() -> None:
    found = changes([], [network_policy("db", from_web())])
    assert {(one.becomes, one.direction, tuple(map(str, one.workloads))) for one in found} == {
        ("denied", Direction.INGRESS, ("StatefulSet/db",))
    }
    from_others, web = sorted(found, key=lambda one: len(names(one)), reverse=True)
    assert names(web) == {"shop Deployment/web"}
    assert web.ports == (
        Ports(6, 1, 5431), Ports(6, 5433, 65_535), Ports(17, 1, 65_535), Ports(132, 1, 65_535), Ports(0, 0, 0)
    )  # fmt: skip
    assert {"shop CronJob/backup", "node n1", "any other IPv4 address"} <= names(from_others)


def test_a_name_of_a_port_means_what_the_pods_call_so() -> None:
    (found,) = changes([network_policy("db", from_web(80))], [network_policy("db", from_web("postgres"))])[:1]
    both = changes([network_policy("db", from_web(5432))], [network_policy("db", from_web("postgres"))])
    assert not both
    assert found.ports in ((Ports(6, 5432, 5432),), (Ports(6, 80, 80),))


def test_a_policy_of_the_admin_tier_changes_only_what_it_decides() -> None:
    deny = {"ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": "x"}}}]}]}
    assert not changes([], [cluster_policy("c", deny)])
    everybody = {"ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}
    found = changes([], [cluster_policy("c", everybody)])
    assert {one.becomes for one in found} == {"denied"}
    assert not any("node n1" in names(one) for one in found)


def test_audit_denies_nothing() -> None:
    assert not changes([], [network_policy("db", from_web(), audit=True)])


def test_a_connection_that_was_seen_belongs_to_its_change() -> None:
    difference = Difference(state([]), state([network_policy("db", from_web())]), PROFILES)
    found = difference.changes()

    def hits(*given: object) -> list[Change]:
        question = question_of(pair(*given).key)  # type: ignore[arg-type]
        return [one for one in found if difference.has(one, question)]

    assert not hits(DB, "ingress", WEB, 5432)
    assert len(hits(DB, "ingress", WEB, 80)) == 1
    assert len(hits(DB, "ingress", BACKUP, 5432)) == 1
    assert len(hits(DB, "ingress", "203.0.113.9/32", 5432)) == 1
    assert len(hits(DB, "ingress", "node:n1", 5432)) == 1
    assert not hits(WEB, "ingress", DB, 80)


NO_NODES = {"egress": [{"action": "Deny", "to": [{"nodes": {}}]}]}


def test_the_own_node_is_another_peer_than_a_node() -> None:
    by_pods = [one for one in changes([], [network_policy("db", from_web())]) if "node n1" in names(one)]
    assert by_pods
    assert not any(name.startswith("own node") for one in by_pods for name in names(one)), "it always reaches its pods"
    dialling = changes([], [cluster_policy("c", NO_NODES)])
    assert {"own node n1", "node n1"} <= {name for one in dialling for name in names(one)}
    assert {one.direction for one in dialling} == {Direction.EGRESS}


def test_a_tunnel_address_is_one_of_the_node() -> None:
    node = Node("n1", "n1", {}, ("192.168.0.1",), tunnel_ips=("10.244.1.0",))
    block = {"to": [{"ipBlock": {"cidr": "10.244.1.0/32"}}]}
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}
    views = [
        replace(state([network_policy("web", {**spec, "egress": rules})]), nodes={node.key: node})
        for rules in ([block], [])
    ]
    difference = Difference(views[0], views[1], PROFILES)
    (found,) = difference.changes()
    assert "node n1" in names(found)
    refs = (PolicyRef("NetworkPolicy", "shop", "web", 0),)
    seen = question_of(pair(WEB, "egress", "node:n1", 80, reason=Reason.POLICY, policies=refs).key)
    assert difference.has(found, seen)


def test_connections_that_were_seen_with_the_own_node_belong_to_its_changes() -> None:
    difference = Difference(state([]), state([cluster_policy("c", NO_NODES)]), PROFILES)
    own = question_of(pair(WEB, "egress", "node:n1", 10_250, reason=Reason.NODE).key)
    other = question_of(pair(WEB, "egress", "node:n1", 10_250, reason=Reason.NO_POLICY).key)
    found = difference.changes()
    for question, name in ((own, "own node n1"), (other, "node n1")):
        (hit,) = [one for one in found if difference.has(one, question)]
        assert name in names(hit)


def test_what_a_change_is_about_may_depend_on_labels_that_profiles_leave_out() -> None:
    by_hash = network_policy("hash", {"podSelector": {"matchLabels": {"pod-template-hash": "7f9c"}}})
    difference = Difference(state([]), state([by_hash]), PROFILES)
    assert difference.concerns(number_of(WEB))
    assert not difference.concerns(number_of(INGRESS)), "it is in another namespace"
    assert difference.concerns("not known")
    assert not Difference(state([by_hash]), state([by_hash]), PROFILES).concerns("not known")


def test_too_many_kinds_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference_module, "MAX_KINDS", 10)
    with pytest.raises(TooManyKindsError, match="more than 10 kinds"):
        changes([], [network_policy("db", from_web())])


labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
named = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(PORTS[1:]), st.sampled_from([TCP, UDP])), max_size=2)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    return profile(draw(st.sampled_from("ab")), "Deployment/w", draw(labels), tuple(draw(named)))


@st.composite
def policies(draw: st.DrawFn) -> list[Policy]:
    own = [draw(network_policies(f"p{number}")) for number in range(draw(st.integers(0, 2)))]
    tiers = [draw(cluster_policies(f"c{number}")) for number in range(draw(st.integers(0, 1)))]
    return cast(list[Policy], [*own, *tiers])


@pytest.mark.property
@settings(max_examples=60)
@given(st.lists(profiles(), min_size=1, max_size=4, unique_by=number_of), policies(), policies())
def test_every_connection_is_in_a_change_or_decided_alike(
    made: list[Profile], old: list[Policy], new: list[Policy]
) -> None:
    known = {number_of(one): one for one in made}
    views = state(old, "a", "b"), state(new, "a", "b")
    difference = Difference(*views, known)
    found = difference.changes()
    peers: list[Profile | str] = [*made, "203.0.113.9/32", "10.0.0.2/32", "8.8.8.8/32", "node:n1"]
    for subject in made:
        for direction in ("ingress", "egress"):
            for peer in peers:
                for protocol, port in ((TCP, 80), (TCP, 443), (TCP, 65_535), (UDP, 1), (ICMP, 0)):
                    question = question_of(pair(subject, direction, peer, port, protocol=protocol).key)
                    before, after = (allowed(one, known, question) for one in views)
                    hits = [one.becomes for one in found if difference.has(one, question)]
                    assert hits == ([] if before is after else ["allowed" if after else "denied"])


def allowed(state: PolicyView, known: dict[str, Profile], question: Question) -> bool:
    """Ask the reference about one connection."""
    peer = question.peer
    if peer.profile:
        end = Endpoint("0.0.0.0", stand_in(known[peer.profile], peer.profile))  # noqa: S104 - no listener
    else:
        end = Endpoint("192.168.0.1" if peer.node else peer.block.partition("/")[0])
    protocol = Protocol(question.protocol) if question.protocol in (TCP, UDP) else None
    subject = stand_in(known[question.subject], question.subject)
    return decide(state, subject, question.direction, end, protocol, question.port).allowed
