"""Tests of `weir explain` with every policy case: its verdict is the expected one and the engine's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enrich.explain.explanation import explain_connection
from enrich.explain.query import parse_destination, parse_source
from enrich.model import Name
from enrich.policy.decide import is_connection_allowed
from enrich.policy.matching import Endpoint, PolicyView
from tests.conformance.case import load, rows
from tests.conformance.state import State
from tests.conformance.suite import case_files


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("file", case_files())
def test_an_explanation_has_the_expected_verdict_and_the_engines(file: Path, family: int) -> None:
    case = load(file, family)
    state = State(case)
    wrong: list[Any] = []
    checked = 0
    for step in case.steps:
        for action in step.actions:
            state.apply(action)
        view = state.view("")
        for source, destination, protocol, port, allowed in rows(step.expect):
            ends = _typed(state, source), f"{_typed(state, destination, bracket=True)}:{port}/{protocol.name}"
            found = explain_connection(view, {}, parse_source(ends[0]), parse_destination(ends[1]))
            checked += 1
            engine = is_connection_allowed(
                view, _end(state, view, source), _end(state, view, destination), protocol, port
            )
            if found.verdict != ("allow" if allowed else "deny") or engine != allowed:
                wrong.append((case.id, *ends, allowed, engine, found.verdict, found.text))
            # Every rule of every policy that took part must be explained.
            wrong += [(case.id, *ends, "unexplained") for answer in found.answers if not _explained(answer)]
    assert checked
    assert not wrong


def _typed(state: State, name: str, *, bracket: bool = False) -> str:
    if "/" in name:
        return name
    ip = state.ip(name)
    return f"[{ip}]" if bracket and ":" in ip else ip


def _end(state: State, view: PolicyView, name: str) -> Endpoint:
    pod = view.pods.get(Name(*name.split("/"))) if "/" in name else None
    return Endpoint(state.ip(name), None if pod is None or pod.host_network else pod)


def _explained(answer: Any) -> bool:
    accounts = [account for side in answer.sides for tier in side.tiers for account in tier.policies]
    decided = {(a.kind, a.namespace, a.name) for a in accounts if a.decided}
    named = {(p.kind, p.namespace, p.name) for side in answer.sides for p in side.policies}
    return decided >= named and all(rule.matched or rule.failed for a in accounts for rule in a.rules)
