"""Tests of the compiled entries with every policy case: they and the engine give the expected outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enrich.model import Name, Pod, Protocol
from enrich.policy.decide import decide
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import Reason
from probe.ledger import Ledger
from probe.policy.compiler import Compiler
from probe.policy.desired import Desired
from tests.conformance.case import Case, load, rows
from tests.conformance.predecessors import with_predecessors
from tests.conformance.state import State
from tests.conformance.suite import case_files
from tests.probe.policy.kernel_model import kernel_outcome


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("file", case_files())
def test_engine_and_entries_agree_with_the_truth(file: Path, family: int, tmp_path: Path) -> None:
    _check(load(file, family), tmp_path)


@pytest.mark.parametrize(
    "file", [param for param in case_files() if "ClusterNetworkPolicy" in param.values[0].read_text()]
)
def test_the_predecessors_of_cluster_network_policies_mean_the_same(file: Path, tmp_path: Path) -> None:
    case = load(file, 4)
    if with_predecessors(case):
        _check(case, tmp_path)


def _check(case: Case, tmp_path: Path) -> None:
    state = State(case)
    numbers = Ledger.open(tmp_path / "ledger")
    wrong: list[Any] = []
    checked = 0
    for step in case.steps:
        for action in step.actions:
            state.apply(action)
        views = {node: state.view(node) for node in state.nodes}
        compiled = {node: _compile(numbers, view) for node, view in views.items()}
        for source, destination, protocol, port, allowed in rows(step.expect):
            checked += 1
            sides = _sides(state, views, compiled, source, destination, protocol, port)
            if any(engine != entries for engine, entries in sides) or all(e for e, _ in sides) != allowed:
                wrong.append((case.id, source, destination, protocol.name, port, allowed, sides))
    numbers.close()
    assert checked
    assert not wrong


def _compile(numbers: Ledger, view: PolicyView) -> Desired:
    subjects = [pod for pod in view.pods.values() if pod.node == view.own_node and not pod.host_network]
    return Compiler(numbers).compile(view, subjects)


def _sides(
    state: State,
    views: dict[str, PolicyView],
    compiled: dict[str, Desired],
    source: str,
    destination: str,
    protocol: Protocol,
    port: int,
) -> list[tuple[bool, bool]]:
    """Return what the engine and the entries allow, for each end that is a pod with its own interface."""
    sides = []
    for direction, subject_name, peer_name in ((0, source, destination), (1, destination, source)):
        pod = state.pod(subject_name)
        if pod is None:
            continue
        view = views[pod.node]
        subject = view.pods[Name(pod.namespace, pod.name)]
        peer = Endpoint(state.ip(peer_name), _pod(view, peer_name))
        engine = decide(view, subject, Direction(direction), peer, protocol, port)
        if engine.reason is Reason.SELF or (engine.reason is Reason.NODE and direction):
            # The kernel decides these without a map: a packet from the node's own stack, or from a pod to itself.
            sides.append((engine.allowed, True))
            continue
        answer = kernel_outcome(compiled[pod.node], subject.uid, Direction(direction), peer.ip, protocol, port)
        named = numbers_meaning(compiled[pod.node], answer.rule)
        assert (answer.verdict, answer.reason, named) == (engine.verdict, engine.reason, engine.policies)
        sides.append((engine.allowed, engine.allowed))
    return sides


def numbers_meaning(desired: Desired, rule: int) -> tuple[Any, ...]:
    return desired.rules.get(rule, ())


def _pod(view: PolicyView, name: str) -> Pod | None:
    if "/" not in name:
        return None
    pod = view.pods.get(Name(*name.split("/")))
    return None if pod is None or pod.host_network else pod
