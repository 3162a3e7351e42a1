"""Recommendations for random traffic of random clusters."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.history.advice.manifest import document
from enrich.history.advice.permits import Style
from enrich.history.advice.proof import Proof, prove
from enrich.history.advice.recommend import Advice, recommend
from enrich.history.advice.scopes import Ground
from enrich.history.advice.traffic import LeftOut, Question, Traffic, traffic_of
from enrich.history.profile import number_of
from enrich.history.stand_ins import Known
from enrich.model import ClusterNetworkPolicy, NetworkPolicy
from enrich.parse.manifest import read_manifest
from enrich.policy.matching import PolicyView
from enrich.wire.journal import Profile
from enrich.wire.pair import Pair
from tests.enrich.history.advice.shop import ICMP, TCP, UDP, pair, profile, view
from tests.probe.policy.random_clusters import cluster_policies, network_policies

pytestmark = pytest.mark.property

labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
ports = st.lists(
    st.tuples(st.sampled_from(["web", "dns"]), st.sampled_from([80, 81]), st.sampled_from([TCP, UDP])), max_size=2
)
blocks = st.sampled_from(
    ["203.0.113.5/32", "203.0.113.6/32", "203.0.113.0/24", "2001:db8::1/128", "node:n1", "node:n9"]
)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    workload = draw(st.sampled_from(["", "Deployment/w", "Deployment/v", "Job/w"]))
    return profile(draw(st.sampled_from("ab")), workload, draw(labels), tuple(draw(ports)))


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[Profile], list[Pair]]:
    found = draw(st.lists(profiles(), min_size=1, max_size=6, unique_by=number_of))
    some = st.sampled_from(found)
    pairs = [
        pair(
            draw(some),
            cast(Literal["ingress", "egress"], draw(st.sampled_from(["ingress", "egress"]))),
            draw(st.one_of(some, some, blocks)),
            draw(st.sampled_from([80, 81])),
            cast(Literal["allow", "deny"], draw(st.sampled_from(["allow", "allow", "deny"]))),
            protocol=draw(st.sampled_from([TCP, TCP, UDP, ICMP])),
        )
        for _ in range(draw(st.integers(1, 12)))
    ]
    return found, pairs


@st.composite
def states(draw: st.DrawFn) -> PolicyView:
    tiers = cast(list[ClusterNetworkPolicy], [draw(cluster_policies(f"c{n}")) for n in range(draw(st.integers(0, 2)))])
    own = cast(list[NetworkPolicy], [draw(network_policies(f"p{n}")) for n in range(draw(st.integers(0, 1)))])
    more: dict[str, Any] = {
        "cluster_policies": {one.key: one for one in tiers},
        "policies": {one.key: one for one in own},
    }
    return view("a", "b", **more)


def known_of(found: list[Profile]) -> Known:
    return Known({number_of(one): one for one in found}, (ip_network("10.0.0.0/8"), ip_network("fd00::/8")))


def printed(advice: list[Advice]) -> list[NetworkPolicy]:
    """Return the policies as the strict parser reads them from the documents."""
    found = []
    for policy in (policy for one in advice for policy in one.policies):
        made, mistakes = read_manifest(document(policy, audit=False))
        assert not mistakes
        assert isinstance(made, NetworkPolicy)
        assert replace(made, uid="") == replace(policy.policy(), uid="")
        found.append(made)
    return found


def proof_of(state: PolicyView, known: Known, seen: Traffic, policies: list[NetworkPolicy]) -> Proof:
    namespaces = {one.namespace for one in known.profiles.values()}
    return prove(state, known, seen, policies, namespaces)


@settings(max_examples=150)
@given(traffic(), states(), st.sampled_from(["workload", "namespace"]))
def test_observed_allows_are_allowed_and_no_observed_denial_is(
    made: tuple[list[Profile], list[Pair]], state: PolicyView, style: Style
) -> None:
    known = known_of(made[0])
    seen = traffic_of(made[1], known.profiles)
    advice = recommend(state, known, seen, style)
    proof = proof_of(state, known, seen, printed(advice))
    unable = {question: why for one in advice for why, question in one.unable}
    assert set(proof.broken) <= set(unable)
    # What the Admin tier accepts today, no NetworkPolicy can deny.
    accepted = proof_of(state, known, seen, isolating(known))
    assert set(proof.opened) <= set(accepted.opened)
    for question, why in unable.items():
        assert why is not LeftOut.BOTH or has_a_denied_twin(question, seen, Ground(known.profiles, state.nodes))


def isolating(known: Known) -> list[NetworkPolicy]:
    """Return policies that isolate all pods and allow nothing."""
    documents = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "none", "namespace": namespace},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        }
        for namespace in {one.namespace for one in known.profiles.values()}
    ]
    return [cast(NetworkPolicy, read_manifest(one)[0]) for one in documents]


def has_a_denied_twin(question: Question, seen: Traffic, ground: Ground) -> bool:
    """Return whether a denied connection differs from an allowed one in nothing that a NetworkPolicy can name."""

    def looks(number: str) -> object:
        found = ground.profiles.get(number)
        return number if found is None else (found.namespace, sorted(found.labels.items()))

    return any(
        (denied.direction, denied.protocol, denied.port) == (question.direction, question.protocol, question.port)
        and looks(denied.subject) == looks(question.subject)
        and looks(denied.peer.profile) == looks(question.peer.profile)
        and (denied.peer.block, denied.peer.node) == (question.peer.block, question.peer.node)
        for denied in seen.denied
    )


@settings(max_examples=75)
@given(traffic(), states(), st.sampled_from(["workload", "namespace"]))
def test_every_rule_is_needed(made: tuple[list[Profile], list[Pair]], state: PolicyView, style: Style) -> None:
    known = known_of(made[0])
    seen = traffic_of(made[1], known.profiles)
    policies = printed(recommend(state, known, seen, style))
    broken = set(proof_of(state, known, seen, policies).broken)
    for index, policy in enumerate(policies):
        for field in ("ingress", "egress"):
            rules = getattr(policy, field)
            for at in range(len(rules)):
                less = replace(policy, **{field: rules[:at] + rules[at + 1 :]})
                without = proof_of(state, known, seen, [*policies[:index], less, *policies[index + 1 :]])
                assert broken < set(without.broken)
