"""Judging a pair says what the engine says about the real pod and address, or that it is not known."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enrich.history.judging import CANNOT_SAY, Judge
from enrich.history.left_out import LEFT_OUT
from enrich.history.profile import number_of, profile_of
from enrich.history.stand_ins import Known
from enrich.model import Name, NetworkPolicy, Node, Pod
from enrich.parse.objects import parse
from enrich.policy.decide import Decision
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import Reason, Verdict
from enrich.wire.pair import PairEnd
from tests.enrich.history.pairs_of_worlds import Asked, asked, decided, key_of, known_of
from tests.probe.policy.random_clusters import World, worlds


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds(), st.sampled_from([0, 3, 8]))
def test_a_pair_is_judged_as_the_real_pods_are(world: World, coarse: int) -> None:
    view = world.view()
    judge = Judge(known_of(view), view)
    said = [0, 0]
    for query in asked(view):
        real = decided(view, query)
        key = key_of(view, query, real, coarse=coarse)
        found = judge.judge(key)
        said[found.verdict == CANNOT_SAY] += 1
        if found.verdict == CANNOT_SAY:
            continue
        assert found.verdict == key.verdict, (key, found)
        if found.reason:
            assert found.reason == key.reason, (key, found)
    # Or a judge who never says anything would do.
    assert said[0] > said[1]


def _policy(spec: dict[str, object], name: str = "p", **meta: object) -> NetworkPolicy:
    made = parse({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop", "uid": name, **meta}, "spec": spec,
    })  # fmt: skip
    assert isinstance(made, NetworkPolicy)
    return made


WEB = Pod("shop", "web-1", "web", {"app": "web", "pod-template-hash": "7f9c"}, ("10.0.0.1",), "n0")
DB = Pod("shop", "db-1", "db", {"app": "db"}, ("10.0.0.2",), "n1")
NODE = Node("n1", "n1", {}, ("192.168.0.1",))
WORLD = Endpoint("203.0.113.9")


def _view(*policies: NetworkPolicy) -> PolicyView:
    return PolicyView({WEB.key: WEB, DB.key: DB}, {}, {NODE.key: NODE}, {policy.key: policy for policy in policies}, {})


def _known(*pods: Pod, ranges: tuple[str, ...] = ("10.0.0.0/8",)) -> Known:
    view = PolicyView({pod.key: pod for pod in pods or (WEB, DB)}, {}, {}, {}, {})
    return Known(known_of(view).profiles, tuple(map(ipaddress.ip_network, ranges)))


ALLOWED = Decision(Verdict.ALLOW, Reason.NO_POLICY)
TO_DB: Asked = (WEB, Direction.EGRESS, Endpoint("10.0.0.2", DB), None, 0)


def _judged(view: PolicyView, query: Asked, known: Known | None = None, coarse: int = 0) -> tuple[str, str]:
    found = Judge(known or _known(), view).judge(key_of(view, query, ALLOWED, coarse=coarse))
    return found.verdict, found.text


def test_a_policy_that_asks_for_a_label_that_profiles_leave_out_cannot_be_judged() -> None:
    view = _view(_policy({"podSelector": {"matchLabels": {"pod-template-hash": "7f9c"}}, "policyTypes": ["Egress"]}))
    assert _judged(view, TO_DB) == (
        CANNOT_SAY, "it depends on labels of Deployment/web-1 that profiles leave out: pod-template-hash",
    )  # fmt: skip


def test_a_label_that_is_left_out_does_not_matter_if_all_its_values_are_decided_alike() -> None:
    view = _view(
        _policy({"podSelector": {"matchLabels": {"pod-template-hash": "7f9c"}}, "policyTypes": ["Egress"]}),
        _policy({"podSelector": {}, "policyTypes": ["Egress"]}, "all"),
    )
    assert _judged(view, TO_DB)[0] == "deny"


def test_a_pair_is_judged_by_what_its_writer_left_out_of_profiles() -> None:
    by_team = _view(_policy({"podSelector": {"matchLabels": {"team": "x"}}, "policyTypes": ["Egress"]}))
    by_hash = _view(_policy({"podSelector": {"matchLabels": {"pod-template-hash": "7f9c"}}, "policyTypes": ["Egress"]}))
    pod = Pod("shop", "web-1", "web", {"app": "web", "team": "x", "pod-template-hash": "7f9c"}, ("10.0.0.1",), "n0")

    def judged(view: PolicyView, *left_out: str) -> str:
        """Judge a pair that a worker with a setting counted: the reader has none."""
        profile = profile_of(pod, None, left_out)
        number = number_of(profile)
        known = _known(DB)
        key = key_of(view, (pod, *TO_DB[1:]), ALLOWED)
        key = msgspec.structs.replace(key, subject=msgspec.structs.replace(key.subject, profile=number))
        return Judge(Known({**known.profiles, number: profile}, known.pod_ranges), view).judge(key).verdict

    assert judged(by_team, "team") == CANNOT_SAY
    assert judged(by_team, "pod-template-hash") == "deny"
    assert judged(by_hash, "team") == "deny"
    assert judged(by_hash, *LEFT_OUT) == CANNOT_SAY


OUTSIDE = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}


def test_a_block_among_the_addresses_of_pods_cannot_be_judged_but_one_around_them_can() -> None:
    view = _view(_policy({"podSelector": {}, "policyTypes": ["Egress"], "egress": [OUTSIDE]}))
    assert _judged(view, TO_DB)[0] == "deny"
    verdict, text = _judged(view, TO_DB, _known(ranges=("0.0.0.0/0",)))
    assert verdict == CANNOT_SAY
    assert text == "it depends on the peer's address, because a policy has blocks of addresses among those of pods"


@pytest.mark.parametrize(("coarse", "expected"), [(0, "allow"), (2, "allow"), (8, CANNOT_SAY)])
def test_a_coarse_block_that_a_policy_splits_cannot_be_judged(coarse: int, expected: str) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "203.0.113.8/30"}}]}
    view = _view(_policy({"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]}))
    verdict, text = _judged(view, (WEB, Direction.EGRESS, WORLD, None, 0), coarse=coarse)
    assert verdict == expected
    assert not text or "which address of 203.0.113.0/24" in text


def test_whether_a_node_is_the_own_one_may_decide() -> None:
    view = _view(_policy({"podSelector": {}, "policyTypes": ["Egress"]}))
    query: Asked = (WEB, Direction.EGRESS, Endpoint("192.168.0.1"), None, 0)
    denied = Decision(Verdict.DENY, Reason.EXPLICIT_DENY)
    found = Judge(_known(), view).judge(key_of(view, query, denied))
    assert (found.verdict, found.text) == (CANNOT_SAY, "it depends on whether n1 is the pod's own node")
    own = Decision(Verdict.ALLOW, Reason.NODE)
    assert Judge(_known(), view).judge(key_of(view, query, own)).verdict == "allow"
    assert Judge(_known(), view).judge(key_of(view, query, ALLOWED)).verdict == "deny"


def test_a_node_that_was_not_there_cannot_be_judged() -> None:
    view = _view()
    key = key_of(view, (WEB, Direction.EGRESS, Endpoint("192.168.0.1"), None, 0), ALLOWED)
    gone = PolicyView({}, {}, {}, {}, {})
    assert Judge(_known(), gone).judge(key).text == "node n1 is not known at that time"
    assert Name("", "n1") in view.nodes


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (PairEnd(unknown=True), "it is not known which pod, if any, had the peer's address"),
        (PairEnd(profile="0" * 16, namespace="a", workload="Job/b"), "the journal does not have the labels of a/Job/b"),
        (PairEnd(), "the peer's address is not known"),
    ],
)
def test_an_unknown_end_cannot_be_judged(peer: PairEnd, text: str) -> None:
    view = _view()
    key = key_of(view, TO_DB, ALLOWED)
    found = Judge(_known(), view).judge(msgspec.structs.replace(key, peer=peer))
    assert (found.verdict, found.text) == (CANNOT_SAY, text)
