"""The state as of a time, the stretches without a change, and the times of which nothing is known."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.history.timeline import MAX_BACK_NS, Scope, Timeline
from enrich.model import Name, Service
from enrich.wire.journal import REPEAT_NS, REPEATED_NS, JournalEntry, Profile
from tests.enrich.history.journals import CLUSTER, at, begin, entry, gap, gone, namespace, node, policy, refused

DENY = policy("deny", {"podSelector": {}})
OPEN = policy("deny", {"podSelector": {}, "ingress": [{}]})
OTHER = policy("other", {"podSelector": {}}, "data")
SHOP = Scope("shop")


def _timeline(*entries: JournalEntry) -> Timeline:
    return Timeline(CLUSTER, [begin(), *entries])


def test_the_state_is_that_of_the_last_entry_of_each_object() -> None:
    made = _timeline(entry(namespace("shop"), 0), entry(DENY, 10), entry(OPEN, 20, by="argocd"), gone(OPEN, 30))
    assert not made.view_at(at(9)).policies
    assert made.view_at(at(10)).policies == {DENY.key: DENY}
    assert made.view_at(at(29)).policies == {DENY.key: OPEN}
    assert not made.view_at(at(30)).policies
    assert Name("", "shop") in made.view_at(at(5)).namespaces
    versions = made.versions("NetworkPolicy", "shop", "deny")
    assert [(one.seen_ns, one.changed_by, one.state) for one in versions] == [
        (at(10), "kubectl", DENY), (at(20), "argocd", OPEN), (at(30), "", None),
    ]  # fmt: skip


def test_changes_elsewhere_do_not_cut_the_segments_of_a_scope() -> None:
    made = _timeline(
        entry(DENY, 10), entry(OTHER, 20), entry(node("n1"), 25), entry(namespace("shop"), 30), entry(OPEN, 40)
    )
    found = made.segments(SHOP, at(5), at(45))
    assert [(one.since_ns, one.until_ns) for one in found] == [
        (at(5), at(10)), (at(10), at(30)), (at(30), at(40)), (at(40), at(45) + 1),
    ]  # fmt: skip
    assert [list(one.view.policies.values()) for one in found] == [[], [DENY], [DENY], [OPEN]]
    assert len(made.segments(Scope("shop", nodes=True), at(5), at(45))) == 5
    assert len({one.state for one in found}) == 4
    assert made.segments(SHOP, at(11), at(12))[0].state == found[1].state


def test_nothing_is_known_before_the_journal_begins_and_in_a_gap() -> None:
    made = _timeline(entry(DENY, 0), gap(100, 200), entry(OPEN, 200))
    assert made.segments(SHOP, at(-50), at(-1)) == []
    assert "the journal begins at" in made.unknown(SHOP, at(-1), at(5))
    assert made.unknown(SHOP, at(0), at(99)) == ""
    assert "the journal was not written from" in made.unknown(SHOP, at(50), at(100))
    found = made.segments(SHOP, at(50), at(250))
    assert [(one.since_ns, one.until_ns) for one in found] == [(at(50), at(100)), (at(200), at(250) + 1)]
    assert made.segments(SHOP, at(120), at(150)) == []


def test_a_journal_read_from_the_middle_begins_where_every_state_was_repeated() -> None:
    made = Timeline(CLUSTER, [entry(DENY, 0)])
    assert made.begins_ns == at(0) + REPEATED_NS
    assert Timeline(CLUSTER, []).unknown(SHOP, 0, 1) == "the journal has nothing of cluster c1"


def test_a_repeated_state_is_no_change() -> None:
    repeated = entry(DENY, 90, version="7", since_ns=at(10))
    made = _timeline(entry(DENY, 10, version="7"), repeated)
    assert len(made.segments(SHOP, at(50), at(100))) == 1
    assert [one.seen_ns for one in made.versions("NetworkPolicy", "shop", "deny")] == [at(10)]
    # The first entry may be from before the first one that was read: then the repetition says since when.
    repeated = entry(DENY, 90, version="7", since_ns=at(-10))
    made = Timeline(CLUSTER, [gap(-5, 0), repeated])
    assert [one.seen_ns for one in made.versions("NetworkPolicy", "shop", "deny")] == [at(-10)]


def test_a_version_that_cannot_be_read_is_a_gap_of_its_namespace_only() -> None:
    broken = msgspec.structs.replace(entry(DENY, 10), object=msgspec.Raw(b'{"namespace":7}'))
    made = _timeline(broken, entry(OPEN, 20))
    assert "the version of NetworkPolicy shop/deny of" in made.unknown(SHOP, at(12), at(13))
    assert made.unknown(Scope("data"), at(12), at(13)) == ""
    assert made.unknown(SHOP, at(20), at(30)) == ""


def test_the_next_writers_clock_may_be_behind() -> None:
    made = _timeline(entry(DENY, 10), entry(OPEN, 4), entry(OTHER, 5))
    assert made.view_at(at(10)).policies == {DENY.key: OPEN, OTHER.key: OTHER}
    assert "the clocks of the journal's writers do not agree" in made.unknown(SHOP, at(4), at(9))
    assert len(made.gaps()) == 2
    assert made.unknown(SHOP, at(0), at(3)) == made.unknown(SHOP, at(10), at(20)) == ""


def test_another_clusters_entries_are_not_read() -> None:
    made = Timeline("c2", [begin(), entry(DENY, 1)])
    assert made.unknown(SHOP, at(1), at(2)) == "the journal has nothing of cluster c2"


def test_a_profile_whose_number_is_anothers_is_not_believed() -> None:
    profile = Profile(namespace="shop", labels={"app": "web"})
    good = entry(profile, 1)
    forged = msgspec.structs.replace(entry(Profile(namespace="shop", labels={"app": "db"}), 2), name="0" * 16)
    made = _timeline(good, forged)
    assert made.profiles == {good.name: profile}


def test_what_is_known_ends_where_no_writer_is_seen() -> None:
    made = Timeline(CLUSTER, [begin(), entry(DENY, 1)], known_until_ns=at(60))
    assert made.unknown(SHOP, at(50), at(59)) == ""
    assert "the journal ends at" in made.unknown(SHOP, at(50), at(60))


def test_a_refused_state_ends_the_one_before_until_one_that_fits() -> None:
    made = _timeline(entry(OPEN, 10), entry(OTHER, 15), refused(OPEN, 20), refused(OPEN, 30), entry(DENY, 40))
    assert made.unknown(SHOP, at(10), at(19)) == ""
    for seconds in (20, 29, 30, 39):
        assert "the journal does not have the version of NetworkPolicy shop/deny" in made.unknown(
            SHOP, at(seconds), at(seconds)
        )
    assert "more than 900000" in made.unknown(None, at(25), at(25))
    assert made.unknown(SHOP, at(40), at(99)) == ""
    assert made.unknown(Scope("data"), at(0), at(99)) == "", "another namespace does not depend on it"
    assert made.view_at(at(41)).policies[DENY.key] == DENY
    assert [one.refused != "" for one in made.versions("NetworkPolicy", "shop", "deny")] == [False, True, True, False]


def test_what_is_not_known_of_one_namespace_is_not_asked_for_another() -> None:
    service = Service("shop", "db", "u1", ("10.96.0.9",))
    made = _timeline(entry(OPEN, 10), refused(OTHER, 20), refused(service, 20))
    assert "NetworkPolicy data/other" in made.unknown_policies(None, at(25))
    assert "NetworkPolicy data/other" in made.unknown_policies(["data"], at(25))
    assert made.unknown_policies(["shop"], at(25)) == ""
    assert "Service shop/db" in made.unknown_services(at(25))
    assert made.unknown_services(at(15)) == ""
    for other in (node("n1"), namespace("x")):
        assert _timeline(refused(other, 20)).unknown_policies(["shop"], at(25))


def test_two_versions_of_a_second_that_cannot_be_read_end_with_the_next_one() -> None:
    bad = msgspec.structs.replace(entry(OPEN, 20), object=msgspec.Raw(b"{}"))
    again = msgspec.structs.replace(bad, seen_ns=at(20.5), resource_version="x")
    made = _timeline(entry(OPEN, 10), bad, again, entry(OPEN, 30))
    assert "cannot be read" in made.unknown(SHOP, at(25), at(25))
    assert made.unknown(SHOP, at(30), at(99)) == ""


def test_a_repeat_of_what_was_not_there_does_not_change_the_past() -> None:
    lie = msgspec.structs.replace(entry(OPEN, 50), since_ns=at(5))
    made = _timeline(entry(DENY, 10), lie)
    assert made.view_at(at(20)).policies == {DENY.key: DENY}
    assert "contradicts those before" in made.unknown(SHOP, at(20), at(20))
    assert made.unknown(SHOP, at(5), at(9)) == ""
    assert made.unknown(SHOP, at(50), at(60)) == ""
    new = _timeline(entry(OTHER, 10), lie)
    assert "contradicts those before" in new.unknown(SHOP, at(20), at(20)), "its first entry should be here"
    true = _timeline(
        entry(OPEN, 10, version="7"), msgspec.structs.replace(entry(OPEN, 50, version="7"), since_ns=at(10))
    )
    assert true.unknown(SHOP, at(0), at(60)) == ""


def test_a_repeat_from_before_the_journal_begins_does_not_change_the_past() -> None:
    for first in (begin(), entry(OTHER, 0)):
        later = 0 if first.kind == "Gap" else REPEATED_NS
        lie = msgspec.structs.replace(entry(OPEN, 0), seen_ns=at(50) + later, since_ns=1)
        made = Timeline(CLUSTER, [first, lie])
        assert "contradicts those before" in made.unknown(SHOP, at(20) + later, at(20) + later)
        assert made.unknown(Scope("data"), at(20) + later, at(20) + later) == ""


def test_a_heartbeat_or_gap_of_long_ago_makes_nothing_unknown() -> None:
    day = 86_400
    for lie in (JournalEntry(cluster=CLUSTER, kind="Heartbeat", seen_ns=at(5)), gap(3, 5), entry(OPEN, 5), begin()):
        made = _timeline(entry(DENY, 10), entry(OTHER, day), lie)
        assert made.impossible == 1
        assert made.unknown(SHOP, at(0), at(day)) == ""
        assert made.view_at(at(day)).policies == {DENY.key: DENY, OTHER.key: OTHER}
    made = _timeline(entry(DENY, 10), entry(OTHER, day), gap(0, day + 1))
    assert made.unknown(SHOP, at(0), at(day) - MAX_BACK_NS - 1) == ""
    assert "was not written from" in made.unknown(SHOP, at(day), at(day))


def test_a_refused_profile_is_known_to_be_unknown() -> None:
    made = _timeline(refused(Profile(namespace="shop", labels={"app": "web"}), 10))
    assert list(made.refused_profiles.values()) == ["shop"]
    assert not made.profiles


def test_nothing_is_known_where_entries_of_any_object_are_lost() -> None:
    made = _timeline(entry(DENY, 10))
    made.lose(at(20))
    assert made.unknown(SHOP, at(10), at(19)) == ""
    assert "any object may have changed" in made.unknown(SHOP, at(20), at(20))
    # A writer that is away when a repeat is due writes it up to a day later.
    assert "any object may have changed" in made.unknown(SHOP, at(20) + REPEAT_NS, at(20) + REPEAT_NS)
    assert made.unknown(SHOP, at(20) + REPEATED_NS, at(20) + REPEATED_NS) == ""


HONEST = [entry(namespace("shop"), 0), entry(DENY, 10), entry(OTHER, 15), entry(OPEN, 20), entry(node("n1"), 30)]


@st.composite
def lies(draw: st.DrawFn) -> JournalEntry:
    """Return what somebody writes who may write anything that can be decoded."""
    states = [DENY, OPEN, OTHER, policy("evil", {"podSelector": {}}), namespace("shop", team="x"), node("n2")]
    made, seen = draw(st.sampled_from(states)), draw(st.integers(-1000, 300))
    makers: list[Callable[..., JournalEntry]] = [entry, gone, refused]
    one = draw(st.sampled_from(makers))(made, seen)
    since = draw(st.sampled_from([0, at(seen), at(seen - 5), at(5), at(15), 1]))
    version = draw(st.sampled_from(["10", "20", "x"]))
    uid = draw(st.sampled_from([one.uid, "other"]))
    changed = msgspec.structs.replace(one, since_ns=min(since, one.seen_ns), resource_version=version, uid=uid)
    marks = [
        gap(seen - draw(st.integers(0, 500)), seen),
        JournalEntry(cluster=CLUSTER, kind="Heartbeat", seen_ns=at(seen)),
    ]
    chosen: list[JournalEntry] = [changed, changed, changed, *marks]
    return draw(st.sampled_from(chosen))


@settings(max_examples=300, deadline=None)
@given(st.lists(lies(), max_size=6))
def test_what_is_written_later_does_not_change_what_was(found: list[JournalEntry]) -> None:
    honest, disturbed = _timeline(*HONEST), _timeline(*HONEST, *found)
    for scope in (SHOP, Scope("data"), Scope("shop", nodes=True)):
        for seconds in (-1, 0, 5, 10, 12, 15, 19, 20, 25, 29, 30):
            time_ns = at(seconds) if seconds < 30 else at(30) - 1
            for segment in disturbed.segments(scope, time_ns, time_ns):
                (true,) = honest.segments(scope, time_ns, time_ns)
                assert segment.view == true.view
    disturbed.changes(None, 0, at(1000))


@settings(max_examples=300, deadline=None)
@given(st.lists(lies(), max_size=6))
def test_what_is_written_later_makes_nothing_of_long_before_unknown(found: list[JournalEntry]) -> None:
    day = 86_400
    known = [*HONEST, JournalEntry(cluster=CLUSTER, kind="Heartbeat", seen_ns=at(day))]
    later = [msgspec.structs.replace(one, seen_ns=one.seen_ns + at(day) - at(0)) for one in found]
    honest, disturbed = _timeline(*known), _timeline(*known, *found, *later)
    for seconds in (0, 12, 25, 3_600):
        for scope in (SHOP, Scope("data")):
            (true,) = honest.segments(scope, at(seconds), at(seconds))
            for segment in disturbed.segments(scope, at(seconds), at(seconds)):
                assert segment.view == true.view
        # Only what an entry names can be contradicted by it.
        assert disturbed.unknown(Scope("elsewhere"), at(seconds), at(seconds)) == ""
