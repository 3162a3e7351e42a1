"""What a node says of its policies tells a false record from a late one, and never a right one from the truth."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enrich.history import epochs as module
from enrich.history import verifying
from enrich.history.epochs import Epochs
from enrich.history.record_pods import RecordPods
from enrich.history.record_question import Outcome
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.history.verifying import Verifier
from enrich.model import Policy
from enrich.policy import selectors
from enrich.policy.decide import selects
from enrich.policy.matching import PolicyView
from enrich.wire.flow import Flow
from enrich.wire.in_force import InForceRecord, ListedPolicy, decode_in_force, version_of
from enrich.wire.journal import HEARTBEAT, JournalEntry
from enrich.wire.journal_objects import encode_state
from tests.enrich.history.flows_of_worlds import flow_of, intervals_of, timestamp
from tests.enrich.history.journals import CLUSTER, at, begin, entry, gone, namespace, policy
from tests.enrich.history.pairs_of_worlds import asked, decided
from tests.enrich.history.test_backtest import SWITCH, journal_of
from tests.enrich.history.test_verifying import (
    ALLOWED,
    BASE,
    DENIED,
    DENY,
    EXAMPLES,
    FLIPPED,
    OPEN,
    PHASES,
    PODS,
    QUERIES,
    WINDOW,
)
from tests.probe.policy.random_clusters import World, changes, worlds

OTHER = policy("other", {"podSelector": {"matchLabels": {"app": "nobody"}}})


def listed(one: Policy) -> ListedPolicy:
    return ListedPolicy(type(one).__name__, *one.key, one.uid, version_of(encode_state(one)))


def statement(
    change: int, policies: Iterable[Policy], switched: float | None, epoch: int = 0, **facts: Any
) -> InForceRecord:
    """Return what a node says; ``switched``: when, if there was a switch."""
    in_force = None if switched is None else (timestamp(switched), timestamp(switched + 1e-5))
    made = InForceRecord(
        type="policies", cluster=CLUSTER, node="n1", ring="ring", change=change, epoch=epoch or change + 50,
        policies=tuple(map(listed, policies)), left_out=0, in_force=in_force,
    )  # fmt: skip
    return decode_in_force(msgspec.json.encode(msgspec.structs.replace(made, **facts)))


def said(*statements: tuple[float, InForceRecord]) -> Epochs:
    """Return what was written at these times."""
    found = Epochs()
    for seconds, record in statements:
        found.add(record, at(seconds))
    return found


def verifier_of(journal: Sequence[JournalEntry], view: PolicyView, epochs: Epochs) -> Verifier:
    alive = JournalEntry(cluster=CLUSTER, kind=HEARTBEAT, seen_ns=at(2900))
    timeline = Timeline(CLUSTER, [*journal, alive])
    return Verifier(timeline, RecordPods(Known(timeline.profiles), intervals_of(view)), WINDOW, epochs=lambda: epochs)


def judged(flow: Flow, seconds: float, epochs: Epochs, *more: JournalEntry, **facts: Any) -> tuple[Outcome, str]:
    found = verifier_of([*BASE, *more], PODS, epochs).judge(msgspec.structs.replace(flow, **facts), at(seconds))
    assert found.since_ns <= at(seconds) < found.until_ns
    return found.outcome, found.text


# The journal has the change from DENY to OPEN at 1000 s; this node had it at 1020 s.
SWITCHED = [(11.0, statement(1, [DENY], 10)), (1021.0, statement(2, [OPEN], 1020)), (2001.0, statement(3, [], 2000))]


@pytest.mark.parametrize(
    ("flow", "seconds", "outcome"),
    [
        (DENIED, 985, Outcome.AGREES), (DENIED, 1002, Outcome.LATE), (DENIED, 1018, Outcome.LATE),
        (DENIED, 1022, Outcome.DISAGREES), (DENIED, 1059, Outcome.DISAGREES),
        (ALLOWED, 971, Outcome.DISAGREES), (ALLOWED, 1001, Outcome.DISAGREES), (ALLOWED, 1018, Outcome.DISAGREES),
        (ALLOWED, 1022, Outcome.AGREES), (ALLOWED, 1500, Outcome.AGREES),
    ],
)  # fmt: skip
def test_a_record_must_agree_with_what_its_node_had_in_force(flow: Flow, seconds: float, outcome: Outcome) -> None:
    found = judged(flow, seconds, said(*SWITCHED))
    assert found[0] is outcome
    if outcome is Outcome.DISAGREES:
        assert found[1].startswith("the policies that its node had in force: ")


@pytest.mark.parametrize("seconds", [1019.5, 1020.5])
def test_at_the_switch_itself_either_may_have_decided(seconds: float) -> None:
    assert judged(DENIED, seconds, said(*SWITCHED))[0] is Outcome.LATE
    assert judged(ALLOWED, seconds, said(*SWITCHED))[0] is Outcome.AGREES


first, second, third = SWITCHED
unknown = policy("deny", {"podSelector": {"matchLabels": {"no": "body"}}})


@pytest.mark.parametrize(
    ("seconds", "statements"),
    [
        (1030, ()), (1030, (first, second)), (1030, (first, third)), (1010, (second, third)),
        (1010, (first, (1021.0, statement(3, [OPEN], 1020)), (2001.0, statement(4, [], 2000)))),
        (1010, (first, (1021.0, statement(1, [OPEN], None, 52)), third)),
        (1030, (first, (1021.0, statement(2, [OPEN], 1020, left_out=1)), third)),
        (1030, (first, (1021.0, statement(2, [unknown], 1020)), third)),
        (1030, (first, (1021.0, statement(2, [OPEN], 1020, ring="other")), third)),
        (1030, (first, (1021.0, statement(2, [OPEN], 1020, in_force=("x", "y"))), (2001.0, statement(1, [], 2000)))),
    ],
)  # fmt: skip
def test_what_the_node_did_not_say_changes_nothing(
    seconds: float, statements: tuple[tuple[float, InForceRecord], ...]
) -> None:
    """One is missing, or the last; a probe started again; not all policies are listed; no journal has the version."""
    assert judged(DENIED, seconds, said(*statements))[0] is Outcome.LATE
    assert judged(ALLOWED, seconds, said(*statements))[0] is Outcome.AGREES


def test_statements_that_are_written_again_change_nothing() -> None:
    again = said(first, second, first, second, third, second, third)
    assert judged(DENIED, 1030, again)[0] is Outcome.DISAGREES
    assert judged(ALLOWED, 1030, again)[0] is Outcome.AGREES


def test_a_change_without_a_switch_was_made_at_some_time_before_it_was_said() -> None:
    noted = policy("deny", {"podSelector": {}}, **{"policy.network.gke.io/enable-logging": "true"})
    found = said(first, (900.0, statement(2, [noted], None, 51)), (1021.0, statement(3, [OPEN], 1020)))
    assert found.at("ring", at(950), at(950)) == frozenset({frozenset({listed(noted).as_version()})})
    assert len(found.at("ring", at(500), at(500)) or ()) == 2
    assert found.at("ring", at(5), at(5)) is None


def test_a_switch_that_was_made_before_an_earlier_change_was_written_is_not_forgotten() -> None:
    """One tally has two changes: one without a switch, dated by when a worker wrote it, and a switch before that."""
    statements = said(
        (11.0, statement(1, [OPEN], 10)), (1021.0, statement(2, [OPEN, OTHER], None, 51)),
        (1021.0, statement(3, [DENY], 1018)), (1031.0, statement(4, [OPEN], 1030)), (2001.0, statement(5, [], 2000)),
    )  # fmt: skip
    for seconds in (1019.5, 1025, 1029.5):
        right = listed(DENY).as_version()
        found = statements.at("ring", at(seconds), at(seconds))
        assert found is None or any(right in one for one in found), seconds
    assert statements.at("ring", at(1032), at(1032)) == frozenset({frozenset({listed(OPEN).as_version()})})


def test_of_two_changes_without_a_switch_either_may_be_older_than_what_was_written() -> None:
    found = said(first, (900.0, statement(2, [DENY, OTHER], None, 51)), (900.0, statement(3, [OTHER], None, 51)), (
        1021.0, statement(4, [OPEN], 1020)))  # fmt: skip
    deny, other = (listed(one).as_version() for one in (DENY, OTHER))
    expected = frozenset(map(frozenset, ([deny], [deny, other], [other])))
    assert found.at("ring", at(500), at(500)) == expected


def test_a_change_elsewhere_on_the_node_is_not_the_subjects() -> None:
    """A policy that does not select the subject comes and goes on the node; the journal has it, too."""
    more = [entry(OTHER, 1000.2), gone(OTHER, 1010)]
    statements = said(first, (995.0, statement(2, [DENY, OTHER], 994)), (1021.0, statement(3, [OPEN], 1020)), (
        2001.0, statement(4, [], 2000)))  # fmt: skip
    assert judged(DENIED, 1000.5, statements, *more)[0] is Outcome.LATE
    assert judged(ALLOWED, 1000.5, statements, *more)[0] is Outcome.DISAGREES


def test_where_labels_of_a_namespace_changed_too_nothing_is_left_out() -> None:
    more = [entry(namespace("shop", tier="x"), 1001)]
    assert judged(ALLOWED, 1010, said(*SWITCHED), *more)[0] is Outcome.AGREES


@pytest.mark.parametrize("bound", ["_MAX_VERSIONS", "_MAX_DISTINCT"])
def test_only_so_many_statements_are_kept(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, bound, 1)
    found = said(*SWITCHED)
    assert found.is_full
    assert judged(DENIED, 1030, found)[0] is Outcome.LATE


def test_of_a_time_with_very_many_switches_nothing_is_said() -> None:
    def switching(count: int) -> Epochs:
        made = [(500.0, statement(change, [OPEN] if change % 2 else [DENY], 499)) for change in range(2, count)]
        return said(SWITCHED[0], *made, (2001.0, statement(count, [], 2000)))

    assert len(switching(64).at("ring", at(500), at(500)) or ()) == 2
    assert switching(1000).at("ring", at(500), at(500)) is None


def test_answers_that_are_forgotten_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "_MAX_OF_NODES", 1)
    verifier = verifier_of(BASE, PODS, said(*SWITCHED))
    for _ in range(2):
        for flow, outcome in ((DENIED, Outcome.DISAGREES), (ALLOWED, Outcome.AGREES)):
            assert verifier.judge(flow, at(1030)).outcome is outcome
            assert len(verifier._of_nodes) == 1


def test_a_version_that_many_sets_have_is_kept_once() -> None:
    found = said((11.0, statement(1, [DENY], 10)), (21.0, statement(2, [DENY, OTHER], 20)), (
        31.0, statement(3, [], 30)))  # fmt: skip
    kept = [one for versions in found.at("ring", at(20), at(20)) or () for one in versions if one.name == "deny"]
    assert len(kept) == 2
    assert kept[0] is kept[1]


def test_nodes_are_only_asked_about_records_of_which_they_decide() -> None:
    timeline = Timeline(CLUSTER, [*BASE, JournalEntry(cluster=CLUSTER, kind=HEARTBEAT, seen_ns=at(2900))])
    asked_for = []

    def read() -> Epochs:
        asked_for.append(1)
        return said(*SWITCHED)

    verifier = Verifier(timeline, RecordPods(Known(timeline.profiles), intervals_of(PODS)), WINDOW, epochs=read)
    for flow, seconds in ((DENIED, 5), (ALLOWED, 500), (ALLOWED, 2800)):
        verifier.judge(flow, at(seconds))
    assert not asked_for
    for flow in (DENIED, ALLOWED, DENIED):
        verifier.judge(flow, at(1010))
    assert asked_for == [1]


def _applying(view: PolicyView) -> list[Policy]:
    """Return what applies to any pod of a cluster with one node."""
    found: list[Policy] = [
        one
        for one in view.policies.values()
        if any(one.namespace == pod.namespace and selectors.matches(one.pods, pod.labels) for pod in view.pods.values())
    ]
    tiers = view.cluster_policies.values()
    return found + [one for one in tiers if any(selects(view, one, pod) for pod in view.pods.values())]


@settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(worlds(), st.lists(changes(), min_size=1, max_size=3), st.integers(-25, 50), st.data())
def test_no_right_record_disagrees_while_node_and_journal_differ(
    world: World, later: list[tuple[str, Any]], delay: int, data: st.DataObject
) -> None:
    after = world
    for slot, made in later:
        after = after.changed(slot, made) if not slot.startswith("pod") else after
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))  # noqa: S311 - chosen by hypothesis
    switch, journal = SWITCH + delay, journal_of(world, after)
    before_of, after_of = _applying(world.view()), _applying(after.view())
    statements = said(
        (11.0, statement(1, before_of, None)), (switch + 1.0, statement(2, after_of, switch)),
        (2001.0, statement(3, [], 2000)),
    )  # fmt: skip
    with_epochs, without = verifier_of(journal, world.view(), statements), verifier_of(journal, world.view(), Epochs())
    found: Counter[bool] = Counter()
    for in_force, seconds in ((world, switch - 3), (after, switch + 3)):
        view = in_force.view()
        queries = [one for one in asked(view) if one[2].pod is None or not one[2].pod.host_network]
        for query in rng.sample(queries, min(QUERIES, len(queries))):
            flow = flow_of(view, query, decided(view, query), seconds)
            assert with_epochs.judge(flow, at(seconds)).outcome is not Outcome.DISAGREES, flow
            flipped = msgspec.structs.replace(flow, disposition=FLIPPED[flow.disposition])
            found[True] += with_epochs.judge(flipped, at(seconds)).outcome is Outcome.DISAGREES
            found[False] += without.judge(flipped, at(seconds)).outcome is Outcome.DISAGREES
    assert found[True] >= found[False]


def test_of_a_changed_world_more_false_records_are_found() -> None:
    """What is right before the switch and false behind it is found on either side, and was not before."""
    journal = [begin(), *BASE[1:]]
    for flow, seconds in ((ALLOWED, 1010), (DENIED, 1030)):
        with_epochs, without = (verifier_of(journal, PODS, one) for one in (said(*SWITCHED), Epochs()))
        assert with_epochs.judge(flow, at(seconds)).outcome is Outcome.DISAGREES
        assert without.judge(flow, at(seconds)).outcome in (Outcome.LATE, Outcome.AGREES)
