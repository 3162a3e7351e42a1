"""Long CIDR lists cost one address for each block and one policy entry for each policy set, whoever shares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from enrich.model import Name, NetworkPolicy, Pod, Protocol
from enrich.policy.decide import decide
from enrich.policy.matching import Direction, Endpoint, PolicyView
from probe.policy.compiler import Compiler
from probe.policy.desired import Desired
from tests.enrich.policy.test_decide import made
from tests.probe.policy.kernel_model import kernel_outcome
from tests.probe.policy.test_compiler_property import ledger

_NODE = "n1"


def cidrs(count: int, family: int = 4) -> list[str]:
    if family == 6:
        return [f"2001:db8:{number:x}::/48" for number in range(count)]
    return [f"{100 + number // 65536}.{number // 256 % 256}.{number % 256}.0/24" for number in range(count)]


def tenant(number: int) -> Pod:
    pod = made(
        "Pod", f"t{number}/p", metadata={"labels": {}}, spec={"nodeName": _NODE},
        status={"podIPs": [{"ip": f"10.0.{number}.1"}, {"ip": f"fd00:{number:x}::1"}]},
    )  # fmt: skip
    assert isinstance(pod, Pod)
    return pod


def egress(number: int, *rules: Sequence[str]) -> NetworkPolicy:
    """Make the policy of a tenant, with a CIDR list for each rule."""
    made_of: list[dict[str, Any]] = [{"to": [{"ipBlock": {"cidr": cidr}} for cidr in rule]} for rule in rules]
    policy = made("NetworkPolicy", f"t{number}/list", spec={"podSelector": {}, "policyTypes": ["Egress"],
                                                            "egress": made_of})  # fmt: skip
    assert isinstance(policy, NetworkPolicy)
    return policy


def view_of(policies: Iterable[NetworkPolicy]) -> PolicyView:
    by_key = {policy.key: policy for policy in policies}
    pods = {pod.key: pod for pod in (tenant(int(key.namespace[1:])) for key in by_key)}
    namespaces = {Name("", key.namespace): made("Namespace", key.namespace) for key in by_key}
    return PolicyView(pods, namespaces, {}, by_key, {}, _NODE)  # type: ignore[arg-type]


def assert_is_allowed(view: PolicyView, desired: Desired, pod: Pod, ip: str, *, allowed: bool) -> None:
    outcome = kernel_outcome(desired, pod.uid, Direction.EGRESS, ip, Protocol.TCP, 443)
    decision = decide(view, pod, Direction.EGRESS, Endpoint(ip), Protocol.TCP, 443)
    assert (outcome.verdict, desired.rules.get(outcome.rule, ())) == (decision.verdict, decision.policies)
    assert (decision.policies[0].rule is not None) == allowed


@pytest.mark.parametrize("family", [4, 6])
def test_sets_that_share_a_list_have_one_entry_for_it(family: int) -> None:
    blocks = cidrs(1000, family)
    view = view_of(egress(number, blocks) for number in range(30))
    pods = list(view.pods.values())
    with ledger() as numbers:
        desired = Compiler(numbers).compile(view, pods)
        assert len(desired.policy_entries) == 30
        assert len([key for key in desired.addresses if key[1] < 128]) == 1000
        inside = "100.3.231.9" if family == 4 else "2001:db8:3e7::9"
        outside = "100.3.232.9" if family == 4 else "2001:db8:3e8::9"
        for pod in pods[::7]:
            assert_is_allowed(view, desired, pod, inside, allowed=True)
            assert_is_allowed(view, desired, pod, outside, allowed=False)


def test_lists_that_differ_by_one_block_have_one_more_identity_each() -> None:
    shared = cidrs(1000)
    view = view_of(egress(number, [*shared, f"198.51.100.{number}/32"]) for number in range(20))
    with ledger() as numbers:
        compiler = Compiler(numbers)
        desired = compiler.compile(view, list(view.pods.values()))
        assert len(desired.policy_entries) == 20 * 2
        for pod in view.pods.values():
            own = int(pod.namespace[1:])
            for other in (own, (own + 1) % 20):
                assert_is_allowed(view, desired, pod, f"198.51.100.{other}", allowed=other == own)


def test_a_block_that_is_added_to_a_shared_list_changes_no_other_address() -> None:
    shared = cidrs(500)
    view = view_of(egress(number, shared) for number in range(10))
    with ledger() as numbers:
        compiler = Compiler(numbers)
        pods = list(view.pods.values())
        desired = compiler.compile(view, pods)
        for blocks, changed in (
            ([*shared, "203.0.113.0/24"], {"203.0.113.7": True}),
            (shared[1:], {"203.0.113.7": False, "100.0.0.9": False, "100.0.1.9": True}),
        ):
            desired.changed_keys.clear()
            one = egress(3, blocks)
            view = dataclasses.replace(view, policies={**view.policies, one.key: one})
            compiler.compile(view, pods)
            assert len(desired.changed_keys.addresses) <= 2
            for pod in pods:
                for ip, allowed in changed.items():
                    expected = allowed if pod.namespace == "t3" else ip.startswith("100.")
                    assert_is_allowed(view, desired, pod, ip, allowed=expected)
        assert compiler.compile(dataclasses.replace(view, policies={}), pods).addresses.keys() == {
            key for key in desired.addresses if key[1] == 128
        }


def test_blocks_in_rules_of_their_own_are_told_apart() -> None:
    """A record names the rule that decided."""
    blocks = cidrs(100)
    view = view_of([egress(0, *([cidr] for cidr in blocks)), egress(1, blocks)])
    with ledger() as numbers:
        compiler = Compiler(numbers)
        desired = compiler.compile(view, list(view.pods.values()))
        assert len(desired.policy_entries) == 2 * 100
        for pod in view.pods.values():
            for third in (0, 57, 99):
                assert_is_allowed(view, desired, pod, f"100.0.{third}.1", allowed=True)


def test_numbers_are_the_same_for_the_next_process() -> None:
    policies = [egress(number, [*cidrs(50), f"198.51.100.{number}/32"]) for number in range(5)]
    view, reversed_view = view_of(policies), view_of(reversed(policies))
    with ledger() as numbers:
        first = Compiler(numbers).compile(view, list(view.pods.values()))
        second = Compiler(numbers).compile(reversed_view, list(reversed_view.pods.values()))
        assert first.addresses == second.addresses
        assert first.policy_entries == second.policy_entries
