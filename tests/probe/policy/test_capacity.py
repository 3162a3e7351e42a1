"""Tests of many identities and nearly full maps: decisions stay right, numbers bounded, and warnings come in time."""

from __future__ import annotations

import random

from enrich.model import Name, Namespace, Node, Pod, Protocol
from enrich.policy.decide import decide
from enrich.policy.matching import Direction, Endpoint, PolicyView
from probe.policy.capacity import MANY_IDENTITIES, capacity_warnings
from probe.policy.compiler import Compiler
from tests.enrich.policy.test_decide import made
from tests.probe.policy.kernel_model import kernel_outcome
from tests.probe.policy.test_compiler_property import ledger

_SELECTORS, _PODS = 20, 3000


def _crowded() -> PolicyView:
    """Return a cluster whose pods match random subsets of twenty selectors, each of a policy with its own port."""
    chance = random.Random(4)  # noqa: S311 - not a secret
    pods = [made("Pod", "a/subject", metadata={"labels": {}}, spec={"nodeName": "n1"}, status={"podIP": "10.1.0.1"})]
    for number in range(_PODS):
        labels = {f"l{n}": "1" for n in range(_SELECTORS) if chance.random() < 0.5}
        ip = f"10.0.{number >> 8}.{number & 255}"
        pods.append(made("Pod", f"a/p{number}", metadata={"labels": labels}, status={"podIP": ip}))
    policies = [
        made("NetworkPolicy", f"a/np{n}", spec={"podSelector": {"matchExpressions": [
            {"key": "l0", "operator": "DoesNotExist"}]}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {f"l{n}": "1"}}}], "ports": [{"port": 1000 + n}]}]})
        for n in range(_SELECTORS)
    ]  # fmt: skip
    home = made("Namespace", "a")
    node = made("Node", "n1")

    def by_key(objects: list[object]) -> dict[Name, object]:
        return {one.key: one for one in objects}  # type: ignore[attr-defined]

    view = PolicyView(by_key(pods), by_key([home]), by_key([node]), by_key(policies), {}, "n1")  # type: ignore[arg-type]
    assert all(isinstance(one, kind) for kind, table in ((Pod, view.pods), (Namespace, view.namespaces),
                                                         (Node, view.nodes)) for one in table.values())  # fmt: skip
    return view


def test_independent_selectors_make_at_most_one_identity_per_pod_and_right_decisions() -> None:
    view = _crowded()
    subject = view.pods[Name("a", "subject")]
    with ledger() as numbers:
        compiler = Compiler(numbers)
        desired = compiler.compile(view, [subject])
        assert _PODS * 0.9 < compiler.identity_count <= len(view.pods)
        assert len(desired.policy_entries) <= compiler.identity_count
        for number in range(0, _PODS, 37):
            peer = view.pods[Name("a", f"p{number}")]
            for port in (999, 1000 + number % _SELECTORS, 1000 + (number + 7) % _SELECTORS):
                engine = decide(view, subject, Direction.INGRESS, Endpoint(peer.ips[0], peer), Protocol.TCP, port)
                kernel = kernel_outcome(desired, subject.uid, Direction.INGRESS, peer.ips[0], Protocol.TCP, port)
                assert (kernel.verdict, kernel.reason) == (engine.verdict, engine.reason)
                assert desired.rules.get(kernel.rule, ()) == engine.policies


def test_identities_and_entries_of_deleted_policies_are_removed() -> None:
    view = _crowded()
    empty = PolicyView(view.pods, view.namespaces, view.nodes, {}, {}, "n1")
    with ledger() as numbers:
        compiler = Compiler(numbers)
        compiler.compile(view, [view.pods[Name("a", "subject")]])
        desired = compiler.compile(empty, [view.pods[Name("a", "subject")]])
        assert compiler.identity_count == 1
        assert not desired.policy_entries
        assert not desired.port_entries


def test_maps_are_reported_before_they_are_full() -> None:
    assert not capacity_warnings({"policy_entries": (80, 100), "port_entries": (1, 100)}, MANY_IDENTITIES)
    warnings = capacity_warnings({"policy_entries": (81, 100), "port_entries": (1, 100)}, MANY_IDENTITIES + 1)
    assert set(warnings) == {"policy_entries", "identities"}
    assert "WEIR_POLICY_ENTRIES" in warnings["policy_entries"][1]


def test_the_warning_of_a_full_map_is_another_one_so_that_it_is_logged_at_once() -> None:
    usage = {"policy_entries": (96, 100), "connections": (96, 100), "denied_flows": (81, 100)}
    warnings = capacity_warnings(usage, 0)
    assert set(warnings) == {"policy_entries full", "connections full", "denied_flows"}
    assert warnings["connections full"][0] != warnings["policy_entries full"][0]
    assert "WEIR_CONNECTIONS" in warnings["connections full"][1]
    assert "WEIR_DENIED_FLOWS" in warnings["denied_flows"][1]
