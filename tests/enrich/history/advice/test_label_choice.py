"""The choice of labels for a selector."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enrich.history.advice.label_choice import choose
from enrich.label_selector import Operator, Requirement, Selector
from enrich.policy import selectors

labels = st.dictionaries(st.sampled_from(("app", "version", "x", "y")), st.sampled_from("123"), max_size=4)


def is_in(key: str, *values: str) -> Requirement:
    return Requirement(key, Operator.IN, values)


def test_one_label_that_says_what_the_pods_are_is_enough() -> None:
    web, api = {"app": "web", "version": "3", "team": "a"}, {"app": "api", "version": "3", "team": "b"}
    assert choose([web], [api]).selector == Selector((is_in("app", "web"),))


def test_a_label_is_asked_for_even_where_there_are_no_others() -> None:
    assert choose([{"team": "a", "app": "web"}], []).selector == Selector((is_in("app", "web"),))


def test_a_label_that_changes_with_releases_is_the_last_resort() -> None:
    old, new = {"app": "web", "version": "1"}, {"app": "web", "version": "2"}
    assert choose([old], [new]).selector == Selector((is_in("app", "web"), is_in("version", "1")))
    assert choose([{**old, "track": "a"}], [{**new, "track": "b"}]).selector == Selector((is_in("track", "a"),))


def test_what_only_the_others_have_is_excluded() -> None:
    choice = choose([{"app": "web"}], [{"app": "web", "canary": "1"}, {"app": "db"}])
    assert choice.selector == Selector((is_in("app", "web"), Requirement("canary", Operator.DOES_NOT_EXIST)))
    assert not choice.also


def test_values_of_all_rollouts_are_selected() -> None:
    assert choose([{"app": "a"}, {"app": "b"}], [{"app": "c"}]).selector == Selector((is_in("app", "a", "b"),))


def test_pods_with_equal_labels_are_named() -> None:
    assert choose([{"app": "web"}], [{"app": "db"}, {"app": "web"}]).also == (1,)


@given(st.lists(labels, min_size=1, max_size=4), st.lists(labels, max_size=5))
def test_all_inside_are_selected_and_the_others_are_known(
    inside: list[dict[str, str]], outside: list[dict[str, str]]
) -> None:
    choice = choose(inside, outside)
    assert all(selectors.matches(choice.selector, one) for one in inside)
    assert choice.also == tuple(i for i, one in enumerate(outside) if selectors.matches(choice.selector, one))


@given(labels, st.lists(labels, max_size=5))
def test_one_set_of_labels_is_told_from_every_other(one: dict[str, str], outside: list[dict[str, str]]) -> None:
    assert all(outside[index] == one for index in choose([one], outside).also)


@given(st.lists(labels, min_size=1, max_size=3), st.lists(labels, max_size=4))
def test_no_requirement_is_needless(inside: list[dict[str, str]], outside: list[dict[str, str]]) -> None:
    choice = choose(inside, outside)
    found = choice.selector.requirements
    is_name = [one.operator is Operator.IN and len(one.values) == 1 and one.key != "version" for one in found]
    for index, one in enumerate(found):
        # One label that says what the pods are stays in any case.
        if len(found) == 1 or (is_name[index] and sum(is_name) == 1):
            continue
        rest = Selector(tuple(other for other in found if other is not one))
        assert len(choice.also) < sum(selectors.matches(rest, labels) for labels in outside)
