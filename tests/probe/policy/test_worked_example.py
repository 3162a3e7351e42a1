"""The example in the docstring of ``probe.policy.compiler``: it must stay true."""

from __future__ import annotations

from typing import Any

from enrich.policy.matching import Direction, PolicyView
from enrich.wire.batch import PolicyRef, Reason, Verdict
from probe.policy.compiler import Compiler
from probe.policy.desired import NODE, POD, WORLD, AddressKey, host_key
from tests.enrich.policy.test_decide import made
from tests.probe.policy.kernel_model import kernel_outcome
from tests.probe.policy.test_compiler_property import ledger


def _pod(name: str, ip: str, node: str) -> Any:
    app = name.partition("-")[0]
    return made("Pod", f"shop/{name}", metadata={"labels": {"app": app}, "uid": name}, status={"podIP": ip},
                spec={"nodeName": node})  # fmt: skip


def _view() -> PolicyView:
    pods = [_pod("db-0", "10.0.0.2", "n1"), _pod("web-0", "10.0.0.3", "n2"), _pod("web-1", "10.0.0.4", "n2"),
            _pod("cron-0", "10.0.0.5", "n2")]  # fmt: skip
    ingress = [
        {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]},
        {"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]},
    ]
    spec = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": ingress}
    policy: Any = made("NetworkPolicy", "shop/db", spec=spec)
    node: Any = made("Node", "n1", status={"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]})
    namespace: Any = made("Namespace", "shop")
    return PolicyView({pod.key: pod for pod in pods}, {namespace.key: namespace}, {node.key: node},
                      {policy.key: policy}, {}, "n1")  # fmt: skip


def test_the_example_of_the_compiler_is_true() -> None:
    view = _view()
    (subject,) = (pod for pod in view.pods.values() if pod.node == "n1")
    with ledger() as numbers:
        desired = Compiler(numbers).compile(view, [subject])
    block: AddressKey = (host_key("203.0.113.0")[0], 96 + 24)
    web, other = desired.addresses[host_key("10.0.0.3")], desired.addresses[host_key("10.0.0.2")]
    world, node = desired.addresses[block], desired.addresses[host_key("192.168.0.1")]
    assert desired.addresses == {
        host_key("10.0.0.3"): web, host_key("10.0.0.4"): web, block: world,
        host_key("10.0.0.2"): other, host_key("10.0.0.5"): other, host_key("192.168.0.1"): node,
    }  # fmt: skip
    assert (web.kind, other.kind, world.kind, node.kind) == (POD, POD, WORLD, NODE)
    policy_set = desired.policy_sets[subject.uid].number
    assert set(desired.policy_entries) == {
        (policy_set, 1, web.number), (policy_set, 1, world.number), (policy_set, 0, node.number),
    }  # fmt: skip
    (port_key,) = desired.port_entries
    assert port_key == (desired.policy_entries[policy_set, 1, web.number].port_list, 6, 5432, 16)
    found = kernel_outcome(desired, subject.uid, Direction.INGRESS, "10.0.0.4", 6, 5432)
    assert (found.verdict, found.reason) == (Verdict.ALLOW, Reason.POLICY)
    assert desired.rules[found.rule] == (PolicyRef("NetworkPolicy", "shop", "db", 0),)
    closed = kernel_outcome(desired, subject.uid, Direction.INGRESS, "10.0.0.5", 6, 5432)
    assert (closed.verdict, closed.reason) == (Verdict.DENY, Reason.DEFAULT_DENY)
