"""A record that the engine made agrees; a record that is flipped is found."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from enrich.history.profile import profile_of
from enrich.history.record_pods import RecordPods
from enrich.history.record_question import Judged, Outcome
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.history.verifying import Verifier
from enrich.model import Owner, Pod, Protocol
from enrich.policy.decide import Decision
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import PolicyRef, Reason, Verdict
from enrich.wire.flow import Flow
from enrich.wire.journal import HEARTBEAT, JournalEntry
from tests.enrich.history.flows_of_worlds import flow_of, intervals_of
from tests.enrich.history.journals import CLUSTER, at, begin, entry, gap, namespace, node, policy, refused
from tests.enrich.history.pairs_of_worlds import Asked, asked, decided, profiles_of
from tests.enrich.history.test_backtest import SWITCH, journal_of
from tests.probe.policy.random_clusters import World, changes, worlds

EXAMPLES = 20
PHASES = (Phase.explicit, Phase.generate)
"""Making a world smaller takes longer than a test may."""
QUERIES = 60
WINDOW = (at(0), at(3000))
FLIPPED = {"allow": "deny", "deny": "allow", "audit": "deny"}


def verifier_of(journal: list[JournalEntry], view: PolicyView, *, intervals: bool = True) -> Verifier:
    alive = JournalEntry(cluster=CLUSTER, kind=HEARTBEAT, seen_ns=at(2900))
    timeline = Timeline(CLUSTER, [*journal, alive])
    known = Known(timeline.profiles)
    return Verifier(timeline, RecordPods(known, intervals_of(view) if intervals else ()), WINDOW)


@settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(worlds(), st.lists(changes(), max_size=3), st.data())
def test_what_the_engine_decided_agrees_and_what_is_flipped_is_found(
    world: World, later: list[tuple[str, Any]], data: st.DataObject
) -> None:
    after = world
    for slot, made in later:
        after = after.changed(slot, made) if not slot.startswith("pod") else after
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))  # noqa: S311 - chosen by hypothesis
    verifier = verifier_of(journal_of(world, after), world.view())
    said: Counter[tuple[bool, Outcome]] = Counter()
    texts: Counter[str] = Counter()
    for in_force, seconds in ((world, SWITCH - 200), (world, SWITCH + 5), (after, SWITCH + 400)):
        view = in_force.view()
        queries = [one for one in asked(view) if one[2].pod is None or not one[2].pod.host_network]
        for query in rng.sample(queries, min(QUERIES, len(queries))):
            flow = flow_of(view, query, decided(view, query), seconds)
            found = verifier.judge(flow, at(seconds))
            assert found.since_ns <= at(seconds) < found.until_ns
            said[False, found.outcome] += 1
            texts[found.text] += 1
            assert found.outcome is not Outcome.DISAGREES, (flow, found)
            if seconds == SWITCH + 5:
                continue
            flipped = msgspec.structs.replace(flow, disposition=FLIPPED[flow.disposition])
            found = verifier.judge(flipped, at(seconds))
            said[True, found.outcome] += 1
            assert found.outcome in (Outcome.DISAGREES, Outcome.CANNOT_SAY), (flipped, found)
    sure = said[False, Outcome.AGREES] + said[False, Outcome.LATE]
    assert sure >= 0.9 * sum(count for (is_flipped, _), count in said.items() if not is_flipped), (said, texts)
    assert said[True, Outcome.DISAGREES] >= 0.8 * sum(count for (flip, _), count in said.items() if flip), said


# --- examples

DENY = policy("deny", {"podSelector": {}})
FROM_WEB = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
OPEN = policy("deny", {"podSelector": {}, "ingress": [FROM_WEB]})
WEB, DB = (
    Pod("shop", name, name, {"app": name}, (ip,), node="n1") for name, ip in (("web", "10.0.0.1"), ("db", "10.0.0.2"))
)
PODS = PolicyView({WEB.key: WEB, DB.key: DB}, {}, {}, {}, {})
QUERY: Asked = (DB, Direction.INGRESS, Endpoint("10.0.0.1", WEB), Protocol.TCP, 5432)
REF = PolicyRef("NetworkPolicy", "shop", "deny")
DENIED = flow_of(PODS, QUERY, Decision(Verdict.DENY, Reason.DEFAULT_DENY, (REF,)), 0)
ALLOWED = flow_of(PODS, QUERY, Decision(Verdict.ALLOW, Reason.POLICY, (REF,)), 0)
BASE = [
    begin(), *(entry(one, 0) for one in profiles_of(PODS).values()), entry(namespace("shop"), 0),
    entry(node("n1", "192.168.0.1", pod_cidrs=("10.0.0.0/24",)), 0), entry(DENY, 0), entry(OPEN, 1000),
]  # fmt: skip


def judged(flow: Flow, seconds: float, *more: JournalEntry, intervals: bool = True, **facts: Any) -> Judged:
    verifier = verifier_of([*BASE, *more], PODS, intervals=intervals)
    return verifier.judge(msgspec.structs.replace(flow, **facts), at(seconds))


@pytest.mark.parametrize("intervals", [True, False])
@pytest.mark.parametrize(
    ("flow", "seconds", "outcome"),
    [
        (DENIED, 500, Outcome.AGREES), (DENIED, 1002, Outcome.LATE), (DENIED, 1059, Outcome.LATE),
        (DENIED, 1061, Outcome.DISAGREES), (ALLOWED, 969, Outcome.DISAGREES), (ALLOWED, 971, Outcome.LATE),
        (ALLOWED, 1001, Outcome.AGREES),
    ],
)  # fmt: skip
def test_a_change_may_be_in_force_a_little_later_or_earlier(
    flow: Flow, seconds: float, outcome: Outcome, intervals: bool
) -> None:
    assert judged(flow, seconds, intervals=intervals).outcome is outcome


def test_an_answer_holds_as_long_as_nothing_changes() -> None:
    found = judged(DENIED, 500)
    assert (found.since_ns, found.until_ns) == (at(0), at(1000)), "what agrees with its own moment needs no other"
    found = judged(ALLOWED, 500)
    assert (found.outcome, found.since_ns, found.until_ns) == (Outcome.DISAGREES, at(60), at(970))


def test_a_record_that_names_another_policy_disagrees() -> None:
    other = (msgspec.structs.replace(DENIED.isolated_by[0], name="other"),)
    found = judged(DENIED, 500, isolated_by=other)
    assert (found.outcome, found.text) == (
        Outcome.DISAGREES, "the policies of its time: deny, default deny (shop/deny)",
    )  # fmt: skip
    assert judged(DENIED, 500, isolated_by=()).outcome is Outcome.AGREES, "NetworkLogging may leave a policy out"
    assert judged(DENIED, 500, reason="explicit_deny").outcome is Outcome.DISAGREES


def test_a_denial_that_no_policy_decided_is_counted_by_its_reason() -> None:
    found = judged(DENIED, 500, reason="spoofed")
    assert (found.outcome, found.text) == (Outcome.NOT_JUDGED, "spoofed")


@pytest.mark.parametrize(
    ("facts", "seconds", "text"),
    [
        ({"reason": "adopted", "disposition": "allow"}, 500, "adopted: policies do not allow it now"),
        ({"reason": "what"}, 500, "it is not known what was decided, or why"),
        ({"aggregated": True}, 500, "counts connections together"),
        ({"src": msgspec.structs.replace(DENIED.src, ambiguous=True)}, 500, "it is not certain which pod"),
        ({"src": msgspec.structs.replace(DENIED.src, pod_name="x", pod_uid="x")}, 500, "but 10.0.0.1 was shop/web's"),
        ({"disposition": "allow", "reason": "no_policy"}, 1600, "the journal was not written from"),
        ({"disposition": "allow", "reason": "no_policy"}, -50, "the journal begins at"),
        ({"disposition": "allow", "reason": "no_policy"}, 2890, "the journal is known to be complete up to"),
    ],
)
def test_what_is_not_known_is_said(facts: dict[str, Any], seconds: float, text: str) -> None:
    found = judged(DENIED, seconds, gap(1500, 1700), **facts)
    assert found.outcome is Outcome.CANNOT_SAY
    assert text in found.text


@pytest.mark.parametrize(
    ("ip", "outcome"),
    [("192.168.0.1", Outcome.AGREES), ("10.0.0.254", Outcome.AGREES), ("203.0.113.7", Outcome.CANNOT_SAY)],
)
def test_a_pods_own_node_is_believed_by_its_addresses(ip: str, outcome: Outcome) -> None:
    query: Asked = (DB, Direction.INGRESS, Endpoint(ip), Protocol.TCP, 5432)
    flow = flow_of(PODS, query, Decision(Verdict.ALLOW, Reason.NODE), 0)
    assert judged(flow, 500).outcome is outcome


def test_the_address_of_a_pod_is_not_its_nodes() -> None:
    query: Asked = (DB, Direction.INGRESS, Endpoint("10.0.0.1"), Protocol.TCP, 5432)
    flow = flow_of(PODS, query, Decision(Verdict.ALLOW, Reason.NODE), 0)
    found = judged(flow, 500)
    assert (found.outcome, found.text) == (
        Outcome.CANNOT_SAY, "the record says no pod, but 10.0.0.1 was shop/web's",
    )  # fmt: skip


def test_several_profiles_that_policies_tell_apart_are_no_answer() -> None:
    """Without an interval, the pod may have been of either rollout."""
    other = msgspec.structs.replace(WEB, labels={"app": "web", "tier": "x"})
    profiles = [entry(one, 0) for one in profiles_of(PolicyView({other.key: other}, {}, {}, {}, {})).values()]
    by_tier = policy(
        "deny", {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"tier": "x"}}}]}]}
    )
    more = [*profiles, entry(by_tier, 1200)]
    found = judged(ALLOWED, 1500, *more, intervals=False)
    assert (found.outcome, found.text) == (
        Outcome.CANNOT_SAY, "it depends on which labels or named ports its pods had",
    )  # fmt: skip


def test_a_pod_whose_labels_the_journal_could_not_take_is_not_guessed() -> None:
    timeline = Timeline(CLUSTER, [*BASE, JournalEntry(cluster=CLUSTER, kind=HEARTBEAT, seen_ns=at(2900))])
    for namespaces, outcome in (((), Outcome.AGREES), (("shop",), Outcome.CANNOT_SAY)):
        pods = RecordPods(Known(timeline.profiles), intervals_of(PODS), namespaces)
        assert Verifier(timeline, pods, WINDOW).judge(DENIED, at(500)).outcome is outcome


def test_a_label_that_a_profile_was_made_without_is_taken_from_the_pods_interval() -> None:
    """With the workers' own setting, profiles have no label tier. The interval of a pod has."""
    tiered = [msgspec.structs.replace(one, labels={**one.labels, "tier": one.name}) for one in (WEB, DB)]
    view = PolicyView({one.key: one for one in tiered}, {}, {}, {}, {})
    profiles = [entry(profile_of(one, Owner("Deployment", one.name), ["tier"]), 0) for one in tiered]
    to_db = {"podSelector": {"matchLabels": {"tier": "db"}}}
    base = [begin(), *profiles, entry(namespace("shop"), 0), entry(policy("deny", to_db), 0)]
    for is_known, outcome in ((True, Outcome.AGREES), (False, Outcome.CANNOT_SAY)):
        assert verifier_of(base, view, intervals=is_known).judge(DENIED, at(500)).outcome is outcome


def test_namespaces_that_records_name_take_no_room() -> None:
    verifier = verifier_of(BASE, PODS)
    tracks = len(verifier._timeline._tracks)
    for number in range(20):
        src = msgspec.structs.replace(DENIED.src, namespace=f"x{number}", pod_namespace=f"x{number}")
        dest = msgspec.structs.replace(DENIED.dest, namespace=f"y{number}", pod_namespace=f"y{number}")
        verifier.question(msgspec.structs.replace(DENIED, src=src, dest=dest))
    assert len(verifier._timeline._tracks) == tracks
    assert verifier._timeline.versions("NetworkPolicy", "nowhere", "none") == []
    assert len(verifier._timeline._tracks) == tracks
    assert verifier._stretches
    verifier.forget()
    assert not verifier._stretches
    assert not verifier._distinguished


def test_a_node_that_is_not_known_makes_no_pods_alike() -> None:
    """Of a time in which no node is known, policies are known all the same, and tell pods apart."""
    api = Pod("shop", "api", "api", {"app": "api"}, ("10.0.0.3",), node="n1")
    view = PolicyView({**PODS.pods, api.key: api}, {}, {}, {}, {})
    profiles = [entry(one, 0) for one in profiles_of(view).values()]
    hidden = refused(node("n1", "192.168.0.1", pod_cidrs=("10.0.0.0/24",)), 0)
    verifier = verifier_of([begin(), *profiles, entry(namespace("shop"), 0), entry(OPEN, 0), hidden], view)
    by_api: Asked = (DB, Direction.INGRESS, Endpoint("10.0.0.3", api), Protocol.TCP, 5432)
    forged = flow_of(view, by_api, Decision(Verdict.ALLOW, Reason.POLICY, (REF,)), 0)
    assert verifier.judge(ALLOWED, at(500)).outcome is Outcome.AGREES
    assert verifier.judge(forged, at(500)).outcome is Outcome.DISAGREES
