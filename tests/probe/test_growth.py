"""Memory and files do not grow with pods, labels and policies that never return.

KUBEWEIR_SHORT_LIVED_PODS sets how many pods come and go (5,000 by default); with 1,000,000 it takes a quarter of an
hour.
"""

from __future__ import annotations

import gc
import os
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrich.model import Name, NamedPort, NetworkPolicy, Pod, Protocol
from enrich.policy.matching import PolicyView
from probe.ledger import Ledger
from probe.ledger_compaction import LedgerCompaction
from probe.node.address_intervals import AddressIntervals, Changes
from probe.node.bound_pods import BoundPods
from probe.node.link_clock import LinkClock
from probe.policy import label_groups
from probe.policy.compiler import Compiler
from tests.enrich.policy.test_decide import made

_PODS = int(os.environ.get("KUBEWEIR_SHORT_LIVED_PODS", "5000"))
_PRESENT = 50
"""Pods that are there at a time."""
_STEP = 10
"""Pods that come and go between two compilations."""


class _Ring:
    consumer_number = producer_number = 0


def _pod(number: int) -> Pod:
    """Return a pod that shares nothing with any other: name, label value, named port and namespace."""
    namespace = f"ns-{number // _STEP}"
    return Pod(
        namespace, f"job-{number}", f"uid-{number}", {"job-name": f"job-{number}"},
        (f"10.{number >> 16 & 127}.{number >> 8 & 255}.{number & 255}",), "n1" if number % 2 else "n2",
        started_ns=number, ports=(NamedPort(f"p{number}", 1000 + number % 5000, Protocol.TCP),),
    )  # fmt: skip


def _view(pods: dict[Name, Pod], number: int) -> PolicyView:
    """Return a state whose policies depend on the label that differs; one policy is new in each."""
    selector = {"matchExpressions": [{"key": "job-name", "operator": "DoesNotExist"}]}
    homes = {pod.namespace for pod in pods.values()}
    policies = [
        made("NetworkPolicy", f"{home}/{name}", spec={"podSelector": {}, "ingress": [
            {"from": [{"podSelector": selector}], "ports": [{"port": f"p{number}"}]}, {"from": [{"podSelector": {
                "matchLabels": {"job-name": f"job-{number}"}}}]}]})
        for home in homes for name in ("jobs", f"jobs-{number}")
    ]  # fmt: skip
    found: dict[Name, NetworkPolicy] = {policy.key: policy for policy in policies}  # type: ignore[misc]
    return PolicyView(
        pods=dict(pods),
        namespaces={Name("", home): made("Namespace", home) for home in homes},  # type: ignore[misc]
        nodes={Name("", "n1"): made("Node", "n1")},  # type: ignore[dict-item]
        policies=found,
        cluster_policies={},
        own_node="n1",
    )


def _reachable(*roots: object) -> int:
    """Return how many objects are reachable from these, without what belongs to modules and classes."""
    skipped = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType)
    found, waiting = set(map(id, roots)), list(roots)
    while waiting:
        for one in gc.get_referents(waiting.pop()):
            if id(one) not in found and not isinstance(one, skipped):
                found.add(id(one))
                waiting.append(one)
    return len(found)


class _Node:
    """The parts of the probe that know pods by name, label or UID."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger.open(folder / "ledger")
        self.compiler = Compiler(self.ledger)
        self.now = 0.0
        self.compaction = LedgerCompaction(self.ledger, _Ring(), lambda: self.now, grown=500)
        self.saved = BoundPods(folder / "ledger.pods")
        self.intervals = AddressIntervals("n1", folder / "intervals", self._publish, LinkClock(), lambda: self.at_ns)
        self.intervals.start("c1")
        self.at_ns = 0
        self.pods: dict[Name, Pod] = {}

    def _publish(self, _changes: Changes) -> None:
        """Kafka is away."""

    def run(self, numbers: range) -> None:
        for first in range(numbers.start, numbers.stop, _STEP):
            for number in range(first, first + _STEP):
                pod = _pod(number)
                self.pods[pod.key] = pod
            while len(self.pods) > _PRESENT:
                del self.pods[next(iter(self.pods))]
            local = [pod for pod in self.pods.values() if pod.node == "n1"]
            for pod in local:
                self.ledger.number_of("endpoint", pod.uid, {"pod": pod.name})
            desired = self.compiler.compile(_view(self.pods, first), local)
            desired.changed_keys.clear()
            self.at_ns += 10**9
            self.intervals.update(dict(enumerate(local)), self.at_ns)
            self.saved.save(local, [])
            self.now += 100
            self.compaction.step([desired], self.compiler.forget)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Node]:
    monkeypatch.setattr(label_groups, "_MAX_EVALUATIONS", 100)
    monkeypatch.setattr("probe.node.address_intervals._MAX_ENDED", 100)
    made_node = _Node(tmp_path)
    yield made_node
    made_node.ledger.close()


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.timeout(3600)
def test_nothing_grows_with_pods_that_never_return(node: _Node, tmp_path: Path) -> None:
    parts = (node.compiler, node.ledger, node.intervals, node.saved)
    node.run(range(2000))
    most, most_bytes = 0, 0
    # Compactions come and go, so the highest of several looks counts.
    for start in range(2000, 4000, 200):
        node.run(range(start, start + 200))
        most, most_bytes = max(most, _reachable(*parts)), max(most_bytes, _bytes_in(tmp_path))
    highest = max(node.ledger.numbers()["endpoint"])
    node.run(range(4000, max(5000, _PODS)))
    found = []
    for start in range(_PODS + 1000, _PODS + 2000, 200):
        node.run(range(start, start + 200))
        found.append((_reachable(*parts), _bytes_in(tmp_path)))
    assert min(objects for objects, _ in found) <= most
    assert min(size for _, size in found) <= most_bytes * 1.1
    # No number came back.
    assert min(node.ledger.numbers()["endpoint"]) > highest
