"""Recommendations for a shop: what the policies look like."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import msgspec

from enrich.history.advice.manifest import document
from enrich.history.advice.permits import Style
from enrich.history.advice.proof import Proof, prove
from enrich.history.advice.recommend import Advice, recommend
from enrich.history.advice.traffic import LeftOut, traffic_of
from enrich.history.judging import CANNOT_SAY, Judge
from enrich.history.profile import number_of
from enrich.history.stand_ins import Known
from enrich.model import NetworkPolicy
from enrich.policy.matching import PolicyView
from enrich.wire.batch import Reason
from enrich.wire.journal import Profile
from enrich.wire.pair import Pair
from tests.enrich.history.advice.shop import (
    BACKUP,
    DB,
    DNS,
    HOUR,
    ICMP,
    INGRESS,
    PROFILES,
    TCP,
    UDP,
    WEB,
    WEB2,
    pair,
    profile,
    view,
)

PODS = (ip_network("10.0.0.0/8"),)


def advise(*pairs: Pair, style: Style = "workload", state: PolicyView | None = None, more: Any = ()) -> Advice:
    """Return the only advice, which is proven unless it says that it cannot."""
    known = Known({**PROFILES, **{number_of(one): one for one in more}}, PODS)
    seen = traffic_of(pairs, known.profiles)
    found = recommend(state or view(), known, seen, style)
    assert len(found) == 1
    proof = proof_of(found[0], *pairs, state=state, more=more)
    assert set(proof.broken) == {question for _, question in found[0].unable}
    assert not proof.opened
    return found[0]


def proof_of(advice: Advice, *pairs: Pair, state: PolicyView | None = None, more: Any = ()) -> Proof:
    known = Known({**PROFILES, **{number_of(one): one for one in more}}, PODS)
    policies = [policy.policy() for policy in advice.policies]
    return prove(state or view(), known, traffic_of(pairs, known.profiles), policies, [advice.namespace])


def specs(advice: Advice) -> dict[str, Any]:
    return {policy.name: document(policy, audit=False)["spec"] for policy in advice.policies}


def app(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": name}}}


def test_a_workload_gets_the_labels_that_all_its_rollouts_have() -> None:
    found = advise(pair(WEB, "egress", DB, 5432), pair(WEB2, "egress", DB, 5432))
    assert specs(found) == {
        "seen-web": {
            **app("web"),
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": [app("db")], "ports": [{"protocol": "TCP", "port": "postgres"}]}],
        }
    }
    (rule,) = found.policies[0].egress
    assert rule.peers[0][1].connections == 20
    assert rule.peers[0][1].subjects == {number_of(WEB), number_of(WEB2)}


def test_a_peer_of_another_namespace_is_named_with_it() -> None:
    found = advise(pair(WEB, "ingress", INGRESS, 8080))
    assert specs(found)["seen-web"]["ingress"] == [
        {
            "from": [
                {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}},
                    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "ingress"}},
                }
            ],
            "ports": [{"protocol": "TCP", "port": "http"}],
        }
    ]


def test_dns_is_allowed_by_both_protocols() -> None:
    spec = specs(advise(pair(WEB, "egress", DNS, 53, protocol=UDP)))["seen-web"]
    assert spec["egress"][0]["ports"] == [{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}]
    assert spec["egress"][0]["to"][0]["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}


def test_dns_by_tcp_that_was_denied_stays_denied() -> None:
    pairs = pair(WEB, "egress", DNS, 53, protocol=UDP), pair(WEB2, "egress", DNS, 53, "deny")
    assert specs(advise(*pairs))["seen-web"]["egress"][0]["ports"] == [{"protocol": "UDP", "port": "dns"}]


def test_metrics_of_the_dns_server_are_not_dns() -> None:
    spec = specs(advise(pair(DNS, "ingress", INGRESS, 9153)))["seen-coredns"]
    assert spec["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "metrics"}]


def test_a_port_has_its_number_where_not_all_pods_name_it_alike() -> None:
    other = profile("shop", "Deployment/web", {"app": "web", "version": "3"}, (("http", 9090, TCP),))
    spec = specs(advise(pair(WEB, "ingress", DB, 8080), more=[other]))["seen-web"]
    assert spec["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8080}]


def test_probes_of_the_own_node_need_no_rule_and_the_workload_a_policy() -> None:
    found = advise(pair(WEB, "ingress", "node:n1", 8080, reason=Reason.NODE))
    assert specs(found) == {"seen-web": {**app("web"), "policyTypes": ["Ingress", "Egress"]}}
    assert found.without_rule.connections == 10


def test_another_node_is_named_by_its_addresses() -> None:
    spec = specs(advise(pair(WEB, "ingress", "node:n2", 8080)))["seen-web"]
    assert spec["ingress"][0]["from"] == [{"ipBlock": {"cidr": "192.168.0.2/32"}}]


def test_blocks_with_the_same_ports_share_a_rule() -> None:
    spec = specs(
        advise(pair(WEB, "egress", "203.0.113.9/32", 443), pair(WEB, "egress", "198.51.100.0/24", 443)),
    )["seen-web"]
    assert spec["egress"] == [
        {
            "to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}, {"ipBlock": {"cidr": "203.0.113.9/32"}}],
            "ports": [{"protocol": "TCP", "port": 443}],
        }
    ]


def test_an_address_inside_a_coarse_block_that_was_denied_is_excepted() -> None:
    pairs = pair(WEB, "egress", "203.0.113.0/24", 443), pair(WEB, "egress", "203.0.113.7/32", 443, "deny")
    known = Known(PROFILES, PODS)
    (found,) = recommend(view(), known, traffic_of(pairs, PROFILES), "workload")
    assert specs(found)["seen-web"]["egress"][0]["to"] == [
        {"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.7/32"]}}
    ]
    proof = proof_of(found, *pairs)
    # Which addresses the block stands for is not known, so neither is whether the denied one was among them.
    assert proof.is_complete
    assert len(proof.unclear) == 1


def test_a_block_inside_one_that_is_allowed_needs_no_rule() -> None:
    spec = specs(advise(pair(WEB, "egress", "203.0.113.0/24", 443), pair(WEB, "egress", "203.0.113.7/32", 443)))
    assert spec["seen-web"]["egress"][0]["to"] == [{"ipBlock": {"cidr": "203.0.113.0/24"}}]


def test_a_block_wider_than_any_worker_makes_is_not_followed() -> None:
    pairs = pair(WEB, "egress", "0.0.0.0/0", 443), pair(WEB, "egress", DB, 5432)
    assert [why for why, _ in traffic_of(pairs, PROFILES).left_out] == [LeftOut.PEER]


def test_a_job_that_ran_in_one_hour_of_the_window_is_allowed() -> None:
    found = advise(pair(BACKUP, "egress", DB, 5432, connections=1, hour=HOUR - 20), pair(WEB, "egress", DB, 5432))
    assert specs(found)["seen-backup"]["egress"][0]["to"] == [app("db")]


def test_a_rollout_that_was_denied_is_told_from_the_others_by_its_labels() -> None:
    found = advise(pair(DB, "ingress", WEB, 5432), pair(DB, "ingress", WEB2, 5432, "deny"))
    assert specs(found)["seen-db"]["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": {"app": "web", "version": "1"}}}
    ]


def test_a_subject_that_was_denied_what_another_rollout_was_allowed() -> None:
    found = advise(pair(WEB, "egress", DB, 5432), pair(WEB2, "egress", DB, 5432, "deny"))
    assert specs(found)["seen-web"] == {**app("web"), "policyTypes": ["Ingress", "Egress"]}
    assert specs(found)["seen-web-deployment"]["podSelector"] == {"matchLabels": {"app": "web", "version": "1"}}


def test_what_was_allowed_and_denied_is_left_out() -> None:
    found = advise(pair(WEB, "egress", DB, 5432), pair(WEB, "egress", DB, 5432, "deny"))
    assert [why for why, _ in found.unable] == [LeftOut.BOTH]


def test_a_denial_that_no_policy_decided_does_not_count() -> None:
    pairs = pair(WEB, "egress", DB, 5432), pair(WEB, "egress", DB, 5432, "deny", reason=Reason.NOT_READY)
    assert specs(advise(*pairs))["seen-web"]["egress"]
    assert [why for why, _ in traffic_of(pairs, PROFILES).left_out] == [LeftOut.NOT_POLICY]


def test_icmp_audits_and_unknown_ends_are_left_out() -> None:
    pairs = (
        pair(WEB, "egress", DB, 0, protocol=ICMP),
        pair(WEB, "egress", DB, 5432, "audit"),
        pair(WEB, "egress", "?", 80),
        pair(WEB, "egress", DB, 0),
        pair(profile("shop", "Deployment/gone", {}), "egress", DB, 80),
        pair(WEB, "egress", profile("shop", "Deployment/gone", {}), 80),
    )
    found = advise(*pairs)
    assert [why for why, _ in found.unable] == [LeftOut.PORTLESS]
    assert specs(found) == {"seen-web": {**app("web"), "policyTypes": ["Ingress", "Egress"]}}
    left_out = {why for why, _ in traffic_of(pairs, PROFILES).left_out}
    assert left_out == {LeftOut.AUDIT, LeftOut.PEER, LeftOut.SUBJECT, LeftOut.PEER_LABELS, LeftOut.PORT}


def test_a_namespace_gets_one_policy_by_namespaces() -> None:
    found = advise(pair(WEB, "egress", DB, 5432), pair(BACKUP, "egress", DNS, 53, protocol=UDP), style="namespace")
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    assert specs(found) == {
        "seen-shop": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [
                {"to": [named], "ports": [{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}]},
                {"to": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 5432}]},
            ],
        }
    }


def test_a_namespace_gets_narrower_rules_where_something_was_denied() -> None:
    found = advise(pair(WEB, "egress", DB, 5432), pair(BACKUP, "egress", DB, 5432, "deny"), style="namespace")
    assert specs(found)["seen-shop"].get("egress") is None
    assert specs(found)["seen-web"]["egress"][0]["to"] == [{"podSelector": {}}]


def test_workloads_with_equal_labels_are_named() -> None:
    twin = profile("shop", "Job/db-load", {"app": "db"})
    found = advise(pair(DB, "ingress", WEB, 5432), more=[twin])
    assert [str(one) for one in found.policies[0].also] == ["Job/db-load"]


def test_workloads_of_one_name_get_policies_of_different_names() -> None:
    job = profile("shop", "Job/web", {"app": "load"})
    found = advise(pair(WEB, "egress", DB, 5432), pair(job, "egress", DB, 5432), more=[job])
    assert sorted(specs(found)) == ["seen-web", "seen-web-job"]


def test_the_policies_stand_instead_of_those_of_the_namespace() -> None:
    own = NetworkPolicy("shop", "old", "old", document_selector("web"), None, ())
    state = view(policies={own.key: own})
    found = advise(pair(WEB, "egress", DB, 5432), state=state)
    assert found.replaced == ("old",)
    assert specs(found)["seen-web"]["egress"]


def document_selector(name: str) -> Any:
    return advise(pair(WEB if name == "web" else DB, "egress", DB, 1)).policies[0].scope.selector


def test_an_audited_namespace_gets_the_same_policies() -> None:
    state = view()
    audited = replace(state, namespaces={key: replace(one, audit=True) for key, one in state.namespaces.items()})
    assert specs(advise(pair(WEB, "egress", DB, 5432), state=audited)) == specs(advise(pair(WEB, "egress", DB, 5432)))


def test_a_name_that_is_not_a_name_of_an_object_becomes_one() -> None:
    hostile: Profile = profile("shop", "Thing/../A\n---\nkind: X", {"app": "x"})
    found = advise(pair(hostile, "egress", DB, 5432), more=[hostile])
    assert list(specs(found)) == ["seen-a-kind-x"]


def test_a_pair_whose_namespace_is_not_its_profiles_is_left_out() -> None:
    seen = pair(WEB, "egress", DB, 5432)
    subject = msgspec.structs.replace(seen.key.subject, namespace="edge")
    peer = msgspec.structs.replace(seen.key.peer, namespace="edge")
    forged = [
        msgspec.structs.replace(seen, key=msgspec.structs.replace(seen.key, **change))
        for change in ({"subject": subject}, {"peer": peer})
    ]
    assert not traffic_of(forged, PROFILES).allowed
    assert [why for why, _ in traffic_of(forged, PROFILES).left_out] == [LeftOut.SUBJECT, LeftOut.PEER_LABELS]
    judge = Judge(Known(PROFILES), view())
    assert [judge.judge(one.key).verdict for one in forged] == [CANNOT_SAY, CANNOT_SAY]
