"""What a key meant before it changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enrich.index.former_values import FormerValues
from enrich.index.intervals import FOREVER
from tests.enrich.steps import at_each_step


def test_a_value_is_certain_before_and_after_a_change_and_not_around_it() -> None:
    known: FormerValues[str, str] = FormerValues(100, 1)
    known.note("a", "blue", now=30, synced_until=28)
    asked = (0, 26, 27, 30, 31, 1000)
    assert [known.at("a", at, "green").values for at in asked] == [
        ("blue",), ("blue",), ("blue", "green"), ("blue", "green"), ("green",), ("green",),
    ]  # fmt: skip
    assert known.since_ns("a") == 31
    assert known.at("b", 0, "red") == (("red",), -FOREVER, FOREVER), "it never changed"


def test_a_change_that_was_made_earlier_comes_first() -> None:
    known: FormerValues[str, str] = FormerValues(1000, 0)
    known.note("a", "blue", now=30, synced_until=30)
    known.note_earlier("a", "white", 5, 10, now=40)
    known.note_earlier("a", "black", 35, 38, now=40)
    assert [known.at("a", at, "green").values for at in (4, 7, 20, 36)] == [
        ("white",), ("white", "blue"), ("blue",), ("green",),
    ]  # fmt: skip
    assert known.oldest("a", "green") == "white"


def test_what_is_older_than_the_retention_is_not_known() -> None:
    known: FormerValues[str, str] = FormerValues(100, 1)
    known.note("a", "blue", now=30, synced_until=30)
    known.note("a", "red", now=90, synced_until=90)
    assert known.evict(130) == []
    assert known.evict(131) == ["a"]
    assert known.at("a", 10, "green").values == ()
    assert known.at("a", 60, "green").values == ("red",)
    assert known.oldest("a", "green") is None
    known.forget("a")
    assert known.evict(1000) == []
    assert not known.keys()


def test_keys_and_changes_that_there_is_no_room_for_are_not_known() -> None:
    known: FormerValues[str, int] = FormerValues(1000, 1, limit=2)
    for number, key in enumerate("aabc"):
        known.note(key, number, now=10 * number, synced_until=10 * number)
    assert tuple(known.keys()) == ("b", "c")
    assert [known.at(key, 10, 9).values for key in "abd"] == [()] * 3, "any key may be the one that was forgotten"
    assert [known.at(key, 11, 9).values for key in "abd"] == [(9,), (2,), (9,)]
    assert known.since_ns("d") == 11
    assert "d" in known
    for number in range(100, 130):
        known.note("b", number, now=number, synced_until=number)
    assert known.at("b", 50, 0).values == ()
    assert known.at("b", 121, 0).values == (121, 122, 123)


def test_more_changes_than_there_is_room_for_are_not_known() -> None:
    known: FormerValues[str, int] = FormerValues(1000, 1, limit=3)
    for number, key in enumerate("aabab"):
        known.note(key, number, now=10 * number, synced_until=10 * number)
    assert known.evict(50) == ["a", "a"], "two of the five changes are forgotten"
    assert [known.at("a", at, 9).values for at in (5, 15, 28)] == [(), (3,), (3,)]
    assert [known.at("b", at, 9).values for at in (5, 25)] == [(2,), (4,)]
    assert known.evict(50) == [], "the other three stay"
    assert known.evict(5000) == ["b", "a"], "what was forgotten already is not forgotten once more"


def test_the_latest_change_is_that_of_any_key() -> None:
    known: FormerValues[str, int] = FormerValues(1000, 1)
    assert known.latest_ns == -FOREVER
    known.note("a", 1, now=30, synced_until=30)
    known.note("b", 1, now=20, synced_until=20)
    known.note_earlier("b", 1, 5, 10, now=40)
    assert known.latest_ns == 31


def test_a_reader_without_the_lock_never_takes_a_key_that_changed_for_one_that_did_not() -> None:
    known: FormerValues[str, str] = FormerValues(1000, 1, limit=2)
    known.note("a", "blue", now=30, synced_until=30)
    seen: list[tuple[str, ...]] = []

    def note_all() -> None:
        known.note("a", "green", now=40, synced_until=40)
        known.note("b", "green", now=50, synced_until=50)
        known.note("c", "green", now=60, synced_until=60)  # There is no room for "a" any more.

    at_each_step("former_values.py", note_all, lambda: seen.append(known.at("a", 10, "red").values))
    assert set(seen) == {("blue",), ()}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from("xyz")), max_size=6),
    st.integers(0, 3),
    st.integers(-5, 70),
)
def test_an_answer_holds_for_its_span_and_names_every_value_that_is_possible(
    changes: list[tuple[int, int, str]], skew: int, at: int
) -> None:
    known: FormerValues[str, str] = FormerValues(1000, skew)
    spans: list[tuple[int, int, str]] = []
    now = begins = -1000
    now = 0
    for pause, doubt, before in changes:
        synced = now + pause + 1
        now = synced + doubt
        known.note("k", before, now, synced)
        spans.append((begins, now + skew, before))
        begins = synced - skew
    spans.append((begins, 10_000, "present"))
    values, since, until = known.at("k", at, "present")
    assert set(values) == {value for first, last, value in spans if first <= at < last}
    for moment in (max(since, -50), at, min(until, 100) - 1):
        assert known.at("k", moment, "present").values == values
