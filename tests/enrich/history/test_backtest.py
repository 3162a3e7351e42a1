"""A backtest predicts what the engine decides when the change is really in force."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enrich.history.backtest import Backtest, Finding, Outcome, Sum
from enrich.history.change import Change
from enrich.history.comparing import Comparer
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.model import ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, Owner, Pod, Protocol
from enrich.policy.decide import Decision
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import PolicyRef, Reason, Verdict
from enrich.wire.journal import JournalEntry
from enrich.wire.pair import HOUR_NS, Pair, PairKey
from tests.enrich.history.journals import CLUSTER, at, begin, entry, gap, gone, namespace, policy
from tests.enrich.history.pairs_of_worlds import POD_RANGES, Asked, asked, decided, key_of, profiles_of
from tests.enrich.history.random_changes import random_changes, real
from tests.probe.policy.random_clusters import World, changes, worlds

EXAMPLES = 20
QUERIES = 60
"""Connections of each world that are asked about."""
SWITCH = 1000
"""Seconds after which the world of the property test changes."""


def pair_of(key: PairKey, first: float, last: float, verdicts: int = 1) -> Pair:
    return Pair(
        cluster=CLUSTER, hour=at(first) // HOUR_NS, key=key, verdicts=verdicts, packets=verdicts,
        first_ns=at(first), last_ns=at(last), examples=("r-1",),
    )  # fmt: skip


def journal_of(before: World, after: World) -> list[JournalEntry]:
    """Return the journal of a world that changes once."""
    found = [begin()]
    for world in (before, after):
        profiles = profiles_of(world.view()).values()
        found += [entry(profile, 0) for profile in profiles]
    kinds = (Namespace, Node, NetworkPolicy, ClusterNetworkPolicy)
    old, new = (
        {(type(one), one.key): one for one in world.slots.values() if isinstance(one, kinds)}
        for world in (before, after)
    )
    found += [entry(one, 0) for one in old.values()]
    found += [entry(one, SWITCH) for key, one in new.items() if old.get(key) != one]
    return found + [gone(one, SWITCH) for key, one in old.items() if key not in new]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds(), st.lists(changes(), max_size=3), st.data())
def test_a_backtest_is_never_wrong(world: World, later: list[Any], data: st.DataObject) -> None:
    after = world
    for slot, made in later:
        after = after.changed(slot, made) if not slot.startswith("pod") else after
    change = data.draw(random_changes(after.view()))
    coarse = data.draw(st.sampled_from([0, 0, 8]))
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))  # noqa: S311 - chosen by hypothesis
    timeline = Timeline(CLUSTER, journal_of(world, after))
    comparer = Comparer(timeline, Known(timeline.profiles, POD_RANGES), change)
    said: Counter[str] = Counter()
    spans = [(world, 10, SWITCH - 10), (after, SWITCH + 100, SWITCH + 900), (world, SWITCH + 1, SWITCH + 5)]
    for in_force, first, last in spans:
        view = in_force.view()
        changed = real(change, view)
        queries = list(asked(view))
        for query in rng.sample(queries, min(QUERIES, len(queries))):
            recorded, would = decided(view, query), decided(changed, query)
            key = key_of(view, query, recorded, coarse=coarse)
            found = comparer.compare(pair_of(key, first, last))
            said["all"] += 1
            if found.passes is None:
                said[found.text] += 1
                continue
            assert found.passes is would.allowed, (key, found, would)
            if coarse == 0 and not key.peer.profile:
                assert found.decision is not None
                assert found.decision.verdict is would.verdict, (key, found, would)
    assert said.total() - said["all"] < said["all"] / 10, said


# --- findings

DENY = policy("deny", {"podSelector": {}})
FROM_WEB = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}
ALLOW_WEB = policy("allow", {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [FROM_WEB]})
WEB, DB = (Pod("shop", name, name, {"app": name}, owner=Owner("Deployment", name)) for name in ("web", "db"))
QUERY: Asked = (DB, Direction.INGRESS, Endpoint("10.0.0.1", WEB), Protocol.TCP, 5432)
PODS = PolicyView({WEB.key: WEB, DB.key: DB}, {}, {}, {}, {})
ALLOWED = key_of(PODS, QUERY, Decision(Verdict.ALLOW, Reason.NO_POLICY))
DENIED = key_of(PODS, QUERY, Decision(Verdict.DENY, Reason.DEFAULT_DENY, (PolicyRef("NetworkPolicy", "shop", "deny"),)))


def findings(change: Change, journal: list[JournalEntry], *pairs: Pair) -> tuple[Backtest, list[Finding]]:
    profiles = [entry(profile, 0) for profile in profiles_of(PODS).values()]
    timeline = Timeline(CLUSTER, [begin(), *profiles, entry(namespace("shop"), 0), *journal])
    made = Backtest(Comparer(timeline, Known(timeline.profiles), change))
    for one in pairs:
        made.add(one)
    return made, list(made.findings())


def test_what_would_be_denied_is_named_with_the_terms_that_fail() -> None:
    pairs = [pair_of(ALLOWED, 10, 20, 7), pair_of(ALLOWED, 4000, 4100, 5)]
    made, found = findings(Change((ALLOW_WEB,)), [], *pairs)
    (one,) = found
    assert (one.outcome, one.connections, one.first_ns, one.last_ns) == (Outcome.NEWLY_DENIED, 12, at(10), at(4100))
    assert (one.would, one.would_reason, one.examples) == ("deny", "default_deny", ("r-1",))
    assert one.failed == ("shop/allow rule 0: port 5432/TCP is not among 80/TCP",)
    assert made.sums[Outcome.NEWLY_DENIED].findings == 1


def test_what_a_deleted_policy_denied_would_be_allowed() -> None:
    change = Change(deleted=frozenset({("NetworkPolicy", "shop", "deny")}))
    _, found = findings(change, [entry(DENY, 0)], pair_of(DENIED, 10, 20))
    assert [(one.outcome, one.would, one.would_reason) for one in found] == [
        (Outcome.NEWLY_ALLOWED, "allow", "no_policy")
    ]


def test_a_policy_in_audit_mode_denies_nothing() -> None:
    audited = policy("deny", {"podSelector": {}}, **{"kubeweir.io/mode": "audit"})
    made, found = findings(Change((audited,)), [], pair_of(ALLOWED, 10, 20, 3))
    assert found == []
    assert (made.sums[Outcome.UNCHANGED].connections, made.audited) == (3, 3)


def test_the_same_policy_again_changes_nothing() -> None:
    made, found = findings(Change((DENY,)), [entry(DENY, 0)], pair_of(DENIED, 10, 20))
    assert found == []
    assert made.sums[Outcome.UNCHANGED] == Sum(1, 1)


def test_a_denial_that_no_policy_decided_stays_one() -> None:
    forged = msgspec.structs.replace(DENIED, reason="spoofed", policies=())
    made, found = findings(Change(replace_all=True), [entry(DENY, 0)], pair_of(forged, 10, 20))
    assert (found, made.sums[Outcome.UNCHANGED].findings) == ([], 1)


@pytest.mark.parametrize(
    ("journal", "first", "text"),
    [
        ([gap(5, 100)], 10, "the journal was not written from"),
        ([], -50, "the journal begins at"),
        ([entry(DENY, 0)], 10, "the policies of its time decide otherwise than it was recorded"),
    ],
)
def test_there_is_no_answer_where_the_past_is_not_known(journal: list[JournalEntry], first: float, text: str) -> None:
    _, found = findings(Change((ALLOW_WEB,)), journal, pair_of(ALLOWED, first, first + 10))
    assert [(one.outcome, one.would) for one in found] == [(Outcome.CANNOT_SAY, "")]
    assert text in found[0].text


def test_a_verdict_may_be_a_little_later_than_the_change_of_its_policy() -> None:
    _, found = findings(Change((ALLOW_WEB,)), [entry(DENY, 100)], pair_of(ALLOWED, 105, 106))
    assert [one.outcome for one in found] == [Outcome.NEWLY_DENIED]
