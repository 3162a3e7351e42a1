"""Property tests: for random clusters and policies, compiled entries decide every connection as the engine does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.model import Object
from enrich.policy.matching import PolicyView
from probe.ledger import Ledger
from probe.policy.compiler import Compiler
from probe.policy.desired import Desired
from tests.probe.policy.kernel_model import kernel_outcome
from tests.probe.policy.random_clusters import World, changes, expected, questions, subjects, worlds

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@contextmanager
def ledger() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        numbers = Ledger.open(Path(folder) / "ledger")
        try:
            yield numbers
        finally:
            numbers.close()


def assert_agrees(view: PolicyView, desired: Desired) -> None:
    for asked in questions(view):
        wanted = expected(view, asked)
        if wanted is None:
            continue
        pod, direction, ip, protocol, port = asked
        answer = kernel_outcome(desired, pod.uid, direction, ip, protocol, port)
        named = desired.rules.get(answer.rule, ())
        assert (answer.verdict, answer.reason, named) == wanted, (pod.key, direction, ip, protocol, port)


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_entries_and_engine_agree_on_every_pair(world: World) -> None:
    with ledger() as numbers:
        view = world.view()
        assert_agrees(view, Compiler(numbers).compile(view, subjects(view)))


@settings(max_examples=50, deadline=None)
@given(worlds(), st.lists(st.lists(changes(), min_size=1, max_size=4), min_size=1, max_size=8))
def test_change_upon_change_is_as_compiled_anew(world: World, steps: list[list[tuple[str, Object | None]]]) -> None:
    """One compiler through all the changes, and a fresh one at each state: the same content, and nothing besides."""
    with ledger() as numbers:
        kept = Compiler(numbers)
        shadow = Desired()
        for step in [[], *steps]:
            for slot, made in step:
                world = world.changed(slot, made)
            view = world.view()
            desired = kept.compile(view, subjects(view))
            fresh = Compiler(numbers)
            assert _content(desired) == _content(fresh.compile(view, subjects(view)))
            assert kept.identity_count == fresh.identity_count
            _take_touched(desired, shadow)
            assert (shadow.addresses, shadow.policy_entries, shadow.port_entries) == (
                desired.addresses,
                desired.policy_entries,
                desired.port_entries,
            )


def _content(desired: Desired) -> tuple[object, ...]:
    return desired.addresses, desired.policy_sets, desired.policy_entries, desired.port_entries


def _take_touched(desired: Desired, shadow: Desired) -> None:
    """What an installer sees that looks at the touched keys only."""
    _take(desired.changed_keys.addresses, desired.addresses, shadow.addresses)
    _take(desired.changed_keys.policy_entries, desired.policy_entries, shadow.policy_entries)
    _take(desired.changed_keys.port_entries, desired.port_entries, shadow.port_entries)
    desired.changed_keys.clear()


def _take(keys: Iterable[_Key], there: Mapping[_Key, _Value], here: dict[_Key, _Value]) -> None:
    for key in keys:
        here.pop(key, None)
        if key in there:
            here[key] = there[key]
