"""A pod with NET_ADMIN takes another pod's address: the other is not touched or named, and the thief gains nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from netns import Space, connects, gets_no_answer, ip, listen

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Object, Pod
from probe.agent import Agent
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.network_view import NetworkView
from tests.kernel.rig import FAMILIES, NODE, Rig, both

pytestmark = pytest.mark.kernel

PORT: Final = 8080
VICTIM: Final = "shop/victim"


class Node:
    """A node with an open pod, and a thief that no policy allows anything; the victim's address is a step away."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.cluster = Cluster()
        self.other = both(rig, "shop/other", 1)
        self.thief = both(rig, "shop/thief", 2)
        rig.policy("shop/thief", podSelector={"matchLabels": {"app": "thief"}}, policyTypes=["Ingress", "Egress"])
        objects: list[Object] = [rig.objects["shop/other"], *rig.namespaces.values(), *rig.policies.values()]
        self.cluster.replace_all(group_by_kind(objects))
        clock = LinkClock()
        intervals = AddressIntervals(NODE, folder / "intervals", lambda _: None, clock)
        view = NetworkView(rig.network, clock)
        self.agent = Agent(NODE, self.cluster, view, rig.generation, rig.numbers, intervals, rig.mode)
        self.agent.reconcile()

    def publish(self, *names: str, **fields: Any) -> None:
        """Have the API server publish these pods, and make a pass."""
        pods: list[Pod] = [msgspec.structs.replace(self.rig.objects[name], **fields) for name in names]
        self.cluster.apply([Change("set", pod) for pod in pods])
        self.read()

    def read(self) -> None:
        self.agent.links_changed()
        self.agent.reconcile()

    def victim(self) -> Space:
        """Start the victim, which policy allows everything."""
        return both(self.rig, VICTIM, 3)

    def reaches(self, source: Space, destination: Space, family: int) -> bool:
        with listen(destination, family, PORT):
            return connects(source, destination.address(family), PORT)

    def is_cut_off(self, source: Space, destination: Space, family: int) -> bool:
        """Return whether policy keeps the source from the destination."""
        with listen(destination, family, PORT):
            return gets_no_answer(source, destination.address(family), PORT)

    def owners(self) -> dict[int, str]:
        return {index: pod.name for index, pod in self.agent.binding.bound.items()}


@pytest.fixture
def node(rig: Rig, tmp_path: Path) -> Node:
    return Node(rig, tmp_path)


def beside(thief: Space, addresses: list[str]) -> None:
    ip(thief, *(f"addr add {a}/{128 if ':' in a else 32} dev eth0" for a in addresses))


def instead(thief: Space, addresses: list[str]) -> None:
    beside(thief, addresses)
    ip(thief, *(f"addr del {a}/{128 if ':' in a else 32} dev eth0" for a in thief.addresses))
    thief.addresses = tuple(addresses)
    # The kernel removed the routes with the address that they preferred.
    ip(thief, "route replace 169.254.1.1 dev eth0", "route replace default via 169.254.1.1 dev eth0",
       "route replace default via fe80::1 dev eth0")  # fmt: skip


TAKEN: Final = {"4": ["10.244.0.3"], "6": ["fd44::3"], "both": ["10.244.0.3", "fd44::3"]}


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN.keys())
@pytest.mark.parametrize("take", [beside, instead], ids=["beside its own", "instead of its own"])
@pytest.mark.parametrize("when", ["bound", "before it is bound", "deleted by force"])
def test_the_next_pods_address_is_taken_early(
    node: Node, take: Callable[[Space, list[str]], None], taken: list[str], when: str
) -> None:
    if when != "before it is bound":
        node.publish("shop/thief")
    if when == "deleted by force":
        node.cluster.apply([Change("delete", node.rig.objects["shop/thief"])])
    node.read()  # the probe has seen the first address
    take(node.thief, taken)
    node.read()
    victim = node.victim()
    node.publish(VICTIM, ips=())
    node.publish(VICTIM)
    assert node.owners()[victim.index] == "victim"
    assert node.owners().get(node.thief.index) in {None, "thief"}
    for family in FAMILIES:
        assert node.reaches(node.other, victim, family)
        assert node.reaches(victim, node.other, family)
        if any((":" in address) == (family == 6) for address in node.thief.addresses):
            assert node.is_cut_off(node.thief, node.other, family)
    node.publish(VICTIM, started_ns=7)  # something new, upon which a pod may claim another interface
    assert node.owners()[victim.index] == "victim"
    assert node.owners().get(node.thief.index) in {None, "thief"}
    assert not {seen.source for seen in node.rig.seen() if seen.subject == VICTIM} - {
        *victim.addresses, *node.other.addresses
    }  # fmt: skip


def test_two_interfaces_that_nothing_tells_apart_are_closed_until_one_has_lost_the_address(node: Node) -> None:
    """Both were there before the probe's first look at them."""
    taken = TAKEN["both"]
    node.rig.net.remove(node.rig.pods.pop("shop/thief"))
    node.read()
    first = node.rig.net.pod(node.rig.node, "10.244.0.9", "fd44::9")
    instead(first, taken)
    victim = node.victim()
    node.publish(VICTIM)
    assert node.owners().keys() == {node.other.index}
    assert node.agent.closed.keys() == {first.link, victim.link}
    for family in FAMILIES:
        assert node.is_cut_off(first, node.other, family)
        assert node.is_cut_off(victim, node.other, family)
    assert [note for note in node.agent.notes() if "address_conflict" in note]
    node.rig.net.remove(first)
    node.read()
    assert node.owners()[victim.index] == "victim"
    assert not node.agent.closed
    # The kernel asks for the gateway's address again after a second.
    assert all(node.reaches(victim, node.other, family) for family in FAMILIES)


def test_a_pod_with_two_interfaces_keeps_its_budget_when_one_is_removed(node: Node) -> None:
    """The sandbox was remade, and the old interface has lost its address."""
    victim = node.victim()
    node.publish(VICTIM)
    ip(victim, *(f"addr del {a}/{128 if ':' in a else 32} dev eth0" for a in victim.addresses))
    node.read()
    ip(node.rig.node, *(f"route del {address} dev {victim.link}" for address in victim.addresses))
    new = node.rig.net.pod(node.rig.node, *victim.addresses)
    node.publish(VICTIM, started_ns=7)
    assert {index for index, name in node.owners().items() if name == "victim"} == {victim.index, new.index}
    assert all(node.reaches(new, node.other, family) for family in FAMILIES)
    number = node.rig.installer.endpoints.get(new.index) or node.agent._installer.endpoints[new.index]
    budgets = node.rig.maps["budgets"]
    before = budgets.items()[number.to_bytes(4, "little")]
    node.rig.net.remove(node.rig.pods.pop(VICTIM))
    node.read()
    assert {index for index, name in node.owners().items() if name == "victim"} == {new.index}
    assert budgets.items()[number.to_bytes(4, "little")] == before
    node.rig.net.remove(new)


def test_a_second_interface_of_a_pod_is_enforced_like_the_first(node: Node) -> None:
    """Multus gives pods such ones. Its addresses are in no Pod object."""
    rig = node.rig
    node.publish("shop/thief")
    ip(rig.node, f"link add second0 type veth peer name net1 netns {node.thief.name}", "link set second0 up",
       "addr add 172.20.0.1/24 dev second0")  # fmt: skip
    ip(node.thief, "link set net1 up", "addr add 172.20.0.2/24 dev net1", "route add 10.244.0.1/32 via 172.20.0.1")
    node.read()
    assert sorted(node.owners().values()) == ["other", "thief", "thief"]
    assert node.is_cut_off(node.thief, node.other, 4)
    denied = [seen for seen in rig.seen() if seen.subject == "shop/thief" and seen.source == "172.20.0.2"]
    assert {seen.reason for seen in denied} == {"default_deny"}
    ip(node.thief, "addr add 10.244.0.3/32 dev net1")
    node.read()
    victim = node.victim()
    node.publish(VICTIM)
    assert node.owners()[victim.index] == "victim"
    assert all(node.reaches(node.other, victim, family) for family in FAMILIES)
