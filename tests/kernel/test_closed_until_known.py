"""WEIR_UNKNOWN=closed: an interface is closed from its announcement until its pod is known, or it is not a pod's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import msgspec
import pytest
from netns import Space, connects, ip, listen

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Node as NodeObject
from enrich.model import Object
from probe.agent import Agent
from probe.node.address_intervals import AddressIntervals
from probe.node.left_interfaces import LeftInterfaces
from probe.node.link_clock import LinkClock
from probe.node.network_view import NetworkView
from probe.unknown_interfaces import Rules
from tests.kernel.passing import ALL, passing
from tests.kernel.rig import FAMILIES, NODE, NODE_IPS, Rig, both
from tests.waiting import until

pytestmark = pytest.mark.kernel

PORT = 8080
RANGES = ("10.244.0.0/24", "fd44::/64")
CLOSED = Rules(closed=True, names=("cali*", "!ve-*"))


class Node:
    """A node with a pod that is known, and an agent with all its threads."""

    def __init__(self, rig: Rig, folder: Path, rules: Rules = CLOSED, *, synced: bool = True) -> None:
        self.rig, self.folder, self.rules = rig, folder, rules
        for table in ("endpoints", "local_addresses"):  # the first start: nothing is known of other tests' pods
            for key in rig.maps[table].items():
                rig.maps[table].drop(key)
        self.left = rig.numbers.path.with_suffix(".left")
        self.left.unlink(missing_ok=True)
        self.server = both(rig, "shop/server", 1)
        own = NodeObject(NODE, "n1-uid", {}, NODE_IPS, "", RANGES)
        self.objects: list[Object] = [own, *rig.objects.values(), *rig.namespaces.values()]
        self.start(synced=synced)

    def start(self, *, synced: bool = True) -> None:
        """Start an agent, which gets its first list if ``synced``, and wait until it has looked at all interfaces."""
        self.cluster = Cluster()
        if synced:
            self.sync()
        rig, clock = self.rig, LinkClock()
        intervals = AddressIntervals(NODE, self.folder / "intervals", lambda _: None, clock)
        view = NetworkView(rig.network, clock)
        self.agent = Agent(NODE, self.cluster, view, rig.generation, rig.numbers, intervals, rig.mode, self.rules)
        self.agent.start(1.0)
        until(lambda: self.agent.problem() is None if synced else bool(clock.caught_up_ns))

    def sync(self) -> None:
        self.cluster.replace_all(group_by_kind(self.objects))

    def publish(self, name: str, **fields: Any) -> None:
        pod = msgspec.structs.replace(self.rig.objects[name], **fields)
        self.cluster.apply([Change("set", pod)])

    def carries(self, space: Space) -> bool:
        return self.rig.attachments.is_attached(space.index)

    def reaches(self, source: Space, destination: Space, family: int) -> bool:
        with listen(destination, family, PORT):
            return connects(source, destination.address(family), PORT)

    def passing(self, space: Space, expected: Set[str] = frozenset()) -> set[str]:
        """Return what passes from and to a pod; the known pod is the other end."""
        return passing(space, space, self.server, expected)


@pytest.fixture
def make(rig: Rig, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(*args: Any, **options: Any) -> Node:
        nodes.append(Node(rig, tmp_path, *args, **options))
        return nodes[-1]

    yield start
    for node in nodes:
        node.agent.stop()
        # What the agent has attached is unknown to the rig.
        for index in node.agent._attachments.links():
            node.agent._attachments.detach(index)


def test_a_new_pod_is_closed_until_its_address_is_published(make: Callable[..., Node]) -> None:
    node = make()
    space = both(node.rig, "shop/new", 2)
    node.publish("shop/new", ips=())
    until(lambda: node.carries(space))
    assert node.passing(space) == set()
    assert all(node.reaches(node.rig.node, space, family) for family in FAMILIES), "kubelet's probes do not fail"
    assert all(node.reaches(space, node.rig.node, family) for family in FAMILIES)
    assert node.agent.closed[space.link].startswith("not_ready")
    assert {seen.reason for seen in node.rig.seen() if seen.verdict == "deny"} == {"not_ready"}
    node.publish("shop/new")
    until(lambda: space.index in node.agent.binding.bound)
    until(lambda: node.passing(space, ALL) == ALL)
    assert space.link not in node.agent.closed


def test_before_the_first_list_every_pod_is_closed_but_for_its_node(make: Callable[..., Node]) -> None:
    node = make(synced=False)
    assert node.carries(node.server)
    space = both(node.rig, "shop/new", 2)
    until(lambda: node.carries(space))
    assert node.passing(space) == set()
    assert all(node.reaches(node.rig.node, node.server, family) for family in FAMILIES)
    assert all(node.reaches(node.server, node.rig.node, family) for family in FAMILIES)
    node.sync()
    node.publish("shop/new")
    until(lambda: node.passing(space, ALL) == ALL)


def test_open_is_as_before(make: Callable[..., Node]) -> None:
    node = make(Rules(closed=False))
    space = both(node.rig, "shop/new", 2)
    node.publish("shop/new", ips=())
    until(lambda: "shop/new" in map(str, node.agent.binding.unattached))
    assert node.passing(space, ALL) == ALL
    assert not node.carries(space)


def test_a_neighbour_with_another_address_is_left_alone_and_named_once(
    make: Callable[..., Node], capsys: pytest.CaptureFixture[str]
) -> None:
    node = make()
    container = node.rig.net.pod(node.rig.node, "172.17.0.2", "fd17::2")
    until(lambda: container.link not in node.agent.closed and not node.carries(container))
    until(lambda: node.passing(container, ALL) == ALL)
    for _ in range(2):
        _wait_for_a_read(node.agent)
    named = [line for line in capsys.readouterr().out.splitlines() if "left alone" in line and container.link in line]
    assert len(named) == 1


def test_a_restart_neither_closes_a_neighbour_nor_opens_a_pod(make: Callable[..., Node]) -> None:
    """The API server is away when the next probe starts, so that it can prove nothing by addresses."""
    node = make()
    rig = node.rig
    container = rig.net.pod(rig.node, "172.17.0.2", "fd17::2")
    until(lambda: container.index in LeftInterfaces(node.left).names)
    until(lambda: rig.attachments.carries_exit(container.index))
    node.agent.stop()
    late = both(rig, "shop/late", 3)
    rig.drain()
    node.start(synced=False)
    assert not node.carries(container)
    assert node.passing(container, ALL) == ALL
    assert node.passing(late) == set()
    refused = {verdict.source for verdict in rig.seen() if verdict.reason == "not_ready"}
    assert refused & {*container.addresses} == set()
    # Now a pod waits for its interface, which might be this one.
    rig.objects["shop/late"] = msgspec.structs.replace(rig.objects["shop/late"], ips=())
    node.objects.append(rig.objects["shop/late"])
    node.sync()
    until(lambda: node.carries(container))
    node.agent.stop()
    node.start(synced=False)
    assert node.passing(container) == node.passing(late) == set()


def test_the_file_alone_opens_no_interface(make: Callable[..., Node]) -> None:
    """It has the indexes and names of interfaces that have pods' programs, or none: they are others by now."""
    node = make()
    space = both(node.rig, "shop/new", 2)
    node.publish("shop/new", ips=())
    until(lambda: node.carries(space))
    node.agent.stop()
    late = both(node.rig, "shop/late", 3)
    names = {str(one.index): one.link for one in (space, late)}
    node.left.write_bytes(msgspec.json.encode(names))
    node.start(synced=False)
    assert node.passing(space) == node.passing(late) == set()


def test_a_pod_that_gives_itself_another_address_is_no_neighbour(make: Callable[..., Node]) -> None:
    """It has NET_ADMIN, and the API server has not published its address yet."""
    node = make()
    space = both(node.rig, "shop/new", 2)
    node.publish("shop/new", ips=())
    until(lambda: node.carries(space))
    ip(space, *(f"addr del {a}/{128 if ':' in a else 32} dev eth0" for a in space.addresses),
       "addr add 172.17.0.2/32 dev eth0", "addr add fd17::2/128 dev eth0")  # fmt: skip
    for _ in range(2):
        _wait_for_a_read(node.agent)
    assert node.carries(space)
    assert space.link in node.agent.closed


def test_an_uplink_is_left_alone(make: Callable[..., Node]) -> None:
    """The node is a container itself: its uplink is a veth whose other end is elsewhere."""
    rig = make().rig
    uplinks = []
    for name, gateway in (("up4", "192.168.7.2"), ("up6", "fd07::2")):
        uplinks.append(rig.net.pod(rig.node, "192.168.7.9" if name == "up4" else "fd07::9"))
        ip(rig.node, f"addr add {gateway[:-1]}1/64 dev {uplinks[-1].link} nodad" if ":" in gateway
           else f"addr add {gateway[:-1]}1/24 dev {uplinks[-1].link}",
           f"route add {'fd08::/64' if ':' in gateway else '192.168.8.0/24'} via {gateway}"
           f" dev {uplinks[-1].link}")  # fmt: skip
    until(lambda: not any(rig.attachments.is_attached(uplink.index) for uplink in uplinks))


@pytest.mark.parametrize("how", ["by the pod", "moved by the pod", "moved by the node"])
def test_a_pair_is_closed_however_it_is_made(make: Callable[..., Node], how: str) -> None:
    node = make()
    rig = node.rig
    space = rig.net._space("made", ())
    try:
        if how == "by the pod":
            ip(space, f"link add eth0 type veth peer name made0 netns {rig.node.name}")
        elif how == "moved by the pod":
            ip(space, "link add eth0 type veth peer name made0", f"link set made0 netns {rig.node.name}")
        else:
            ip(rig.node, "link add made0 type veth peer name eth0", f"link set eth0 netns {space.name}")
        until(lambda: "made0" in node.agent.closed)
    finally:
        rig.net.remove(space)
    until(lambda: "made0" not in node.agent.closed)


@pytest.mark.parametrize("name", ["ve-box", "calibox"])
def test_names_decide_where_they_can(make: Callable[..., Node], name: str) -> None:
    node = make()
    rig = node.rig
    container = rig.net._space("box", ("172.17.0.9",))
    try:
        ip(rig.node, f"link add {name} type veth peer name eth0 netns {container.name}", f"link set {name} up")
        ip(container, "addr add 172.17.0.9/32 dev eth0", "link set eth0 up")
        for _ in range(2):
            _wait_for_a_read(node.agent)
        assert (name in node.agent.closed) == (name == "calibox")
    finally:
        rig.net.remove(container)


def test_addresses_outside_the_ranges_prove_nothing_where_pods_have_such(make: Callable[..., Node]) -> None:
    """The CNI plugin does not keep to the Node object's ranges."""
    node = make()
    outside = node.rig.pod("shop/outside", "10.9.0.1")
    node.publish("shop/outside")
    until(lambda: outside.index in node.agent.binding.bound)
    other = node.rig.net.pod(node.rig.node, "10.9.0.2")
    until(lambda: node.carries(other))
    for _ in range(2):
        _wait_for_a_read(node.agent)
    assert node.carries(other)


def _wait_for_a_read(agent: Agent) -> None:
    now = time.time_ns()
    agent.links_changed()
    until(lambda: agent._view.state.read_at_ns > now)
