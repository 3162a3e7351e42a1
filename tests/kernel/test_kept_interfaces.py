"""An interface that was bound stays enforced until it is gone, whatever becomes of the Pod object and the addresses."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from netns import Space, ip, run, run_in, sysctl

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Object, Pod
from probe.agent import Agent
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.network_view import NetworkView
from tests.kernel.passing import ALL, passing
from tests.kernel.rig import NODE, Rig, both
from tests.waiting import until

pytestmark = pytest.mark.kernel

ISOLATED: Final = {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress", "Egress"]}
EVERYBODY: Final[dict[str, Any]] = {"ingress": [{}], "egress": [{}]}


@dataclass
class Node:
    """A node with an isolated pod, shop/a, and one without policy, shop/b."""

    rig: Rig
    folder: Path
    cluster: Cluster = field(default_factory=Cluster)
    agent: Agent = field(init=False)
    space: Space = field(init=False)
    """The network namespace that has the other end of the pod's interface now."""

    def __post_init__(self) -> None:
        rig = self.rig
        self.space = both(rig, "shop/a", 1)
        both(rig, "shop/b", 2)
        rig.policy("shop/isolated", **ISOLATED)
        objects: list[Object] = [*rig.objects.values(), *rig.namespaces.values(), *rig.policies.values()]
        self.cluster.replace_all(group_by_kind(objects))
        self.start()

    @property
    def index(self) -> int:
        return self.rig.pods["shop/a"].index

    @property
    def pod(self) -> Pod:
        return self.rig.objects["shop/a"]

    def start(self) -> None:
        """Start an agent, without its threads."""
        clock = LinkClock()
        intervals = AddressIntervals(NODE, self.folder / "intervals", lambda _: None, clock)
        view = NetworkView(self.rig.network, clock)
        self.agent = Agent(NODE, self.cluster, view, self.rig.generation, self.rig.numbers, intervals, self.rig.mode)
        self.agent.reconcile()

    def restart(self) -> None:
        """Kill the probe, and start the next one."""
        self.rig.crash()
        self.rig.open()
        self.start()

    def read(self) -> None:
        """Make a pass that reads the network."""
        self.agent.links_changed()
        self.agent.reconcile()

    def change(self, *objects: Pod) -> None:
        """Change pods in the API, and make a pass."""
        self.cluster.apply([Change("set", changed) for changed in objects])
        self.agent.reconcile()

    def delete(self) -> None:
        """Delete the Pod object, as by ``kubectl delete --force``."""
        self.cluster.apply([Change("delete", self.pod)])
        self.agent.reconcile()

    def policy(self, **rules: Any) -> None:
        """Change the policy of the isolated pod."""
        self.rig.policy("shop/isolated", **ISOLATED, **rules)
        self.cluster.apply([Change("set", changed) for changed in self.rig.policies.values()])
        self.agent.reconcile()

    def passing(self, expected: Set[str] = frozenset()) -> set[str]:
        """Return which of the connections from and to the isolated pod pass, in both families."""
        return passing(self.space, self.rig.pods["shop/a"], self.rig.pods["shop/b"], expected)


@pytest.fixture
def node(rig: Rig, tmp_path: Path) -> Iterator[Node]:
    made = Node(rig, tmp_path)
    assert made.passing() == set()
    yield made
    if made.space.name.endswith("inner"):
        rig.net.remove(made.space)


def deleted(node: Node) -> None:
    node.delete()


def succeeded(node: Node) -> None:
    node.change(msgspec.structs.replace(node.pod, terminated=True))


def without_address(node: Node) -> None:
    """The phase is Failed, and the status shows no address any more."""
    node.change(msgspec.structs.replace(node.pod, terminated=True, ips=()))


def mirror_remade(node: Node) -> None:
    """A static pod's object is deleted and made anew; the status comes last."""
    node.delete()
    assert node.passing() == set()
    remade = msgspec.structs.replace(node.pod, uid="remade")
    node.change(msgspec.structs.replace(remade, ips=()))
    assert node.passing() == set()
    node.change(remade)
    assert node.agent.binding.bound[node.index].uid == "remade"


def moved_to_lo(node: Node) -> None:
    """The pod's address leaves its interface; it goes on to send from it."""
    addresses = node.space.addresses
    # Neighbour discovery finds no address of another interface.
    (link,) = json.loads(run(node.space, "ip", "-j", "link", "show", "eth0"))
    ip(node.rig.node, f"neigh replace {node.space.address(6)} lladdr {link['address']} dev {node.space.link}")
    ip(node.space, *(f"addr del {a}/{128 if ':' in a else 32} dev eth0" for a in addresses),
       *(f"addr add {a}/{128 if ':' in a else 32} dev lo" for a in addresses))  # fmt: skip
    _route(node.space)
    node.read()


def set_down(node: Node) -> None:
    """The pod sets its interface down, which takes the IPv6 address off, and up again."""
    ip(node.space, "link set eth0 down")
    node.read()
    ip(node.space, "link set eth0 up", f"addr add {node.space.address(6)}/128 dev eth0 nodad")
    _route(node.space)


def moved_to_another_namespace(node: Node) -> None:
    """A sandbox takes the whole interface into a network namespace of its own."""
    inner = node.rig.net._space("inner", node.space.addresses)
    ip(node.space, f"link set eth0 netns {inner.name}")
    sysctl(inner, "net.ipv6.conf.eth0.accept_dad=0")
    ip(inner, "link set lo up", "link set eth0 up")
    node.space = inner
    node.read()
    assert node.agent.binding.kept
    ip(inner, *(f"addr add {a}/{128 if ':' in a else 32} dev eth0" for a in inner.addresses))
    _route(inner)
    node.read()


def _route(space: Space) -> None:
    ip(space, "route replace 169.254.1.1 dev eth0", "route replace default via 169.254.1.1 dev eth0",
       "route replace default via fe80::1 dev eth0")  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [deleted, succeeded, without_address, mirror_remade, moved_to_lo, set_down, moved_to_another_namespace],
    ids=lambda event: event.__name__.replace("_", " "),
)
def test_a_bound_interface_stays_enforced_and_follows_policy(node: Node, event: Callable[[Node], None]) -> None:
    event(node)
    assert node.index in node.agent.binding.bound
    assert node.passing() == set()
    node.policy(**EVERYBODY)
    assert node.passing(ALL) == ALL
    node.policy()
    assert node.passing() == set()
    node.restart()
    assert node.passing() == set()
    node.policy(**EVERYBODY)
    assert node.passing(ALL) == ALL
    node.policy()
    node.rig.net.remove(node.rig.pods.pop("shop/a"))
    if event is moved_to_another_namespace:
        ip(node.space, "link del eth0")
    node.read()
    _assert_nothing_is_left(node, bound={"b"})


def _assert_nothing_is_left(node: Node, bound: set[str]) -> None:
    assert {pod.name for pod in node.agent.binding.bound.values()} == bound
    assert not node.agent.kept
    installed = node.rig.maps["endpoints"].items()
    assert installed.keys() == {index.to_bytes(4, "little") for index in node.agent.binding.bound}
    assert len(node.rig.installer.budgets.used()) <= len(installed)
    assert node.rig.attachments.links() <= node.agent.binding.bound.keys()
    saved = msgspec.json.decode(node.rig.numbers.path.with_suffix(".pods").read_bytes())
    assert {pod["name"] for pod in saved["pods"]} == bound


def test_what_is_not_enforced_and_what_is_kept_is_named(node: Node) -> None:
    waiting = msgspec.structs.replace(node.pod, name="waiting", uid="w", ips=("10.244.0.77",))
    node.change(waiting)
    node.delete()
    (note, kept) = node.agent.notes()
    assert note == "not enforced: pod shop/waiting: no interface has its address yet"
    assert kept == (
        f"kept: interface {node.rig.pods['shop/a'].link} of pod shop/a: the API server no longer has the pod"
    )


def test_the_last_known_labels_of_a_namespace_count_when_it_is_gone(node: Node) -> None:
    """A ClusterNetworkPolicy goes on to select a kept pod whose namespace is deleted."""
    rig = node.rig
    rig.namespace("shop", tenant="t1")
    rig.cluster_policy(
        "denied", tier="Admin", priority=1, subject={"namespaces": {"matchLabels": {"tenant": "t1"}}},
        egress=[{"name": "e", "action": "Deny", "to": [{"namespaces": {}}]}],
        ingress=[{"name": "i", "action": "Deny", "from": [{"namespaces": {}}]}],
    )  # fmt: skip
    changed: list[Object] = [*rig.namespaces.values(), *rig.cluster_policies.values()]
    node.cluster.apply([Change("set", made) for made in changed])
    node.policy(**EVERYBODY)
    assert node.passing() == set()
    node.cluster.apply([Change("delete", made) for made in rig.namespaces.values()])
    node.delete()
    assert node.passing() == set()
    node.restart()
    assert node.passing() == set()
    rig.namespace("shop", tenant="t2")
    node.cluster.apply([Change("set", made) for made in rig.namespaces.values()])
    node.agent.reconcile()
    assert node.passing(ALL) == ALL


def test_an_interface_of_whose_pod_nothing_is_known_stays_closed(node: Node) -> None:
    node.policy(**EVERYBODY)
    assert node.passing(ALL) == ALL
    node.cluster.apply([Change("delete", node.pod)])
    node.rig.numbers.path.with_suffix(".pods").unlink()
    node.restart()
    assert node.passing() == set()
    assert "closed: interface" in node.agent.notes()[0]
    node.read()
    assert node.passing() == set()
    node.change(node.pod)
    assert node.passing(ALL) == ALL
    assert not node.agent.notes()


@pytest.mark.parametrize("killed", [False, True], ids=["seen", "while no probe runs"])
def test_the_index_of_a_kept_interface_is_used_again(node: Node, *, killed: bool) -> None:
    """What gets the index is another interface: it is nobody's until the API server says whose it is."""
    node.policy(**EVERYBODY)
    node.delete()
    index = node.index
    with _running(node) if not killed else contextlib.nullcontext():
        node.rig.net.remove(node.rig.pods.pop("shop/a"))
        new = _connect(node, index)
        if killed:
            node.restart()
        else:
            until(lambda: new.index not in node.agent.binding.bound)
    assert new.index not in node.agent.binding.bound
    assert not node.rig.attachments.carries(new.index)
    made = msgspec.structs.replace(node.pod, name="new", uid="new", ips=new.addresses)
    node.rig.objects["shop/a"], node.rig.pods["shop/a"] = made, new
    node.change(made)
    assert node.agent.binding.bound[new.index].name == "new"


@contextlib.contextmanager
def _running(node: Node) -> Iterator[None]:
    node.agent.start(1.0)
    try:
        started = time.time_ns()
        until(lambda: node.agent._view.clock.caught_up_ns > started)
        yield
    finally:
        node.agent.stop()


def _connect(node: Node, index: int) -> Space:
    """Make a pod's interface with this index on the node."""
    net = node.rig.net
    net._made += 1
    space = net._space(f"p{net._made}", ("10.244.0.9", "fd44::9"))
    space.link, space.index = f"v{net._made}", index
    ip(node.rig.node, f"link add {space.link} index {index} type veth peer name eth0 netns {space.name}",
       f"link set {space.link} up")  # fmt: skip
    ip(space, "link set eth0 up", *(f"addr add {a}/{128 if ':' in a else 32} dev eth0" for a in space.addresses))
    assert run_in(node.rig.node, lambda: socket.if_nametoindex(space.link)) == index
    return space
