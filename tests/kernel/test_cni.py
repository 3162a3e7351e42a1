"""The CNI plugin on a real node: an interface is under its pod's policy before the pod's first process runs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from netns import Space, ip

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Name, Object, Pod
from probe.agent import Agent
from probe.cni.installation import Installation, Places
from probe.cni.plugin import Plugin
from probe.cni.requests import Ask
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.network_view import NetworkView
from probe.settings import Settings
from tests.cni import Call, ended, program, short_folder
from tests.kernel.passing import ALL, passing
from tests.kernel.rig import NODE, Rig, both
from tests.waiting import until

pytestmark = pytest.mark.kernel

WAIT_S = 60
"""For requests that are to succeed: tests share their processors with others."""
CLOSED: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "new"}}, "policyTypes": ["Ingress", "Egress"]}
ADDRESSES = ("10.244.0.9", "fd44::9")


@dataclass
class Node:
    """A node with a running probe, an older pod shop/old, and the pod shop/new, whose sandbox is made by tests."""

    rig: Rig
    folder: Path
    cluster: Cluster = field(default_factory=Cluster)
    agent: Agent = field(init=False)
    plugin: Plugin = field(init=False)
    ask: Ask | None = None
    running: bool = False

    def __post_init__(self) -> None:
        both(self.rig, "shop/old", 1)
        (self.folder / "conf").mkdir()
        (self.folder / "conf/10-net.conflist").write_text('{"name": "net", "plugins": [{"type": "ptp"}]}')
        self.rig.policy("shop/closed", **CLOSED)
        rig = self.rig
        objects: list[Object] = [*rig.objects.values(), *rig.namespaces.values(), *rig.policies.values()]
        self.cluster.replace_all(group_by_kind(objects))

    @property
    def settings(self) -> Settings:
        return dataclasses.replace(Settings(), node=NODE, run_dir=self.folder, cni="on", cni_wait=WAIT_S)

    def start(self) -> None:
        """Start a probe with its threads."""
        rig, clock = self.rig, LinkClock()
        intervals = AddressIntervals(NODE, rig.folder / "intervals", lambda _: None, clock)
        view = NetworkView(rig.network, clock)
        self.agent = Agent(NODE, self.cluster, view, rig.generation, rig.numbers, intervals, rig.mode)
        self.agent.start(1.0)
        self.plugin = Plugin(self.settings, self.cluster, rig.network, self.agent.assignments, self.agent, self.ask)
        places = Places(program(), self.folder / "bin", self.folder / "conf")
        self.plugin._installation = Installation(places, {})
        self.plugin.start()
        self.running = True

    def stop(self) -> None:
        """Stop the probe; enforcement stays."""
        if self.running:
            self.plugin.stop()
            self.agent.stop()
            self.running = False

    def restart(self) -> None:
        """Kill the probe, and start the next one."""
        self.stop()
        self.rig.crash()
        self.rig.open()
        self.start()

    def publish(self, name: str = "new", uid: str = "", **more: Any) -> Pod:
        """Have the API server show the pod, without an address, as before its sandbox is made."""
        given = {"name": name, "uid": uid or f"uid-{name}", "labels": {"app": name}, "ips": (), **more}
        pod = msgspec.structs.replace(self.rig.objects["shop/old"], **given)
        self.cluster.apply([Change("set", pod)])
        return pod

    def sandbox(self, *addresses: str) -> Space:
        """Make a sandbox's network, as the plugins before ours do."""
        made = self.rig.connect(self.rig.node, *(addresses or ADDRESSES))
        self.rig.pods[f"shop/{made.name}"] = made
        return made

    def call(self, space: Space, name: str = "new", uid: str = "", **more: Any) -> Call:
        return Call(self.folder / "cni.sock", str(space.path), f"shop/{name}", uid or f"uid-{name}", space.name,
                    space.addresses, **{"wait": WAIT_S, **more})  # fmt: skip

    def passing(self, space: Space, expected: Set[str] = frozenset()) -> set[str]:
        """Return which connections between the pod and shop/old pass, in both families."""
        return passing(space, space, self.rig.pods["shop/old"], expected)


@pytest.fixture
def node(rig: Rig) -> Iterator[Node]:
    folder = short_folder()
    made = Node(rig, folder)
    yield made
    made.stop()
    shutil.rmtree(folder)


def test_a_denied_pod_sends_and_receives_nothing_from_its_first_packet_on(node: Node) -> None:
    node.start()
    node.publish()
    space = node.sandbox()
    call = node.call(space)
    assert call.run("ADD") == (0, call.previous)
    assert node.passing(space) == set()
    assert node.agent.binding.bound[space.index].ips == ADDRESSES
    assert call.run("CHECK") == (0, None)


def test_an_allowed_pods_first_connections_pass(node: Node) -> None:
    """The API server has not published its address: the other pod's policy knows it by CNI's."""
    rig = node.rig
    rig.policy("shop/closed", **CLOSED, ingress=[{}], egress=[{}])
    rig.policy("shop/old", podSelector={"matchLabels": {"app": "old"}},
               ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "new"}}}]}])  # fmt: skip
    node.cluster.apply([Change("set", changed) for changed in rig.policies.values()])
    node.start()
    node.publish()
    space = node.sandbox()
    assert node.call(space).run("ADD")[0] == 0
    assert node.passing(space, ALL) == ALL


def test_an_address_that_is_not_inside_the_interface_is_enough(node: Node) -> None:
    """A sandbox such as gVisor's takes the addresses into its own network stack."""
    node.start()
    node.publish()
    space = node.sandbox()
    ip(space, "addr flush dev eth0 scope global")
    assert node.call(space).run("ADD")[0] == 0
    assert node.agent.binding.bound[space.index].ips == ADDRESSES
    ip(space, *(f"addr add {address}/{128 if ':' in address else 32} dev eth0" for address in ADDRESSES),
       "route replace 169.254.1.1 dev eth0", "route replace default via 169.254.1.1 dev eth0")  # fmt: skip
    assert node.passing(space) == set()


def test_without_a_probe_the_pod_waits_and_starts_when_it_is_there(node: Node) -> None:
    node.publish()
    space = node.sandbox()
    code, error = node.call(space, wait=1).run("ADD")
    assert (code, error["code"]) == (1, 11)
    waiting = node.call(space).start("ADD")
    node.start()
    assert ended(waiting)[0] == 0
    assert node.passing(space) == set()


def test_a_pod_that_the_watch_shows_later_waits_for_it(node: Node) -> None:
    node.start()
    space = node.sandbox()
    waiting = node.call(space).start("ADD")
    node.publish(uid="uid-of-an-earlier-pod-of-this-name")
    node.publish()
    assert ended(waiting)[0] == 0
    assert node.passing(space) == set()


def test_a_pod_that_the_watch_lacks_is_asked_for_once(node: Node) -> None:
    asked: list[Name] = []
    pod = msgspec.structs.replace(node.rig.objects["shop/old"], name="new", uid="uid-new", labels={"app": "new"})

    def ask(name: Name) -> Pod | None:
        asked.append(name)
        return msgspec.structs.replace(pod, ips=()) if name.name == "new" else None

    node.ask = ask
    node.start()
    space = node.sandbox()
    assert node.call(space).run("ADD")[0] == 0
    assert node.passing(space) == set()
    code, error = node.call(node.sandbox("10.244.0.10"), "gone").run("ADD")
    assert (code, error["code"]) == (1, 11)
    assert "no pod shop/gone" in error["msg"]
    assert [name.name for name in asked] == ["new", "gone"]


def test_a_static_pod_has_the_policy_of_its_mirror_also_when_that_is_made_again(node: Node) -> None:
    node.start()
    first = node.publish(uid="mirror-1", static_uid="hash")
    space = node.sandbox()
    assert node.call(space, uid="hash").run("ADD")[0] == 0
    assert node.agent.binding.bound[space.index].uid == "mirror-1"
    node.cluster.apply([Change("delete", first)])
    until(lambda: bool(node.agent.binding.kept))
    assert node.passing(space) == set()
    node.publish(uid="mirror-2", static_uid="hash")
    until(lambda: node.agent.binding.bound[space.index].uid == "mirror-2")
    assert node.passing(space) == set()


def test_a_static_pod_without_a_mirror_waits(node: Node) -> None:
    node.start()
    code, error = node.call(node.sandbox(), uid="hash", wait=2).run("ADD")
    assert (code, error["code"]) == (1, 11)


def test_the_next_probe_knows_what_was_assigned(node: Node) -> None:
    """The pod's address is in no object of the API, and another pod claims it."""
    node.start()
    node.publish()
    space = node.sandbox()
    assert node.call(space).run("ADD")[0] == 0
    node.restart()
    until(lambda: not node.agent.problem())
    assert node.agent.binding.bound[space.index].uid == "uid-new"
    node.publish("thief")
    thief = msgspec.structs.replace(node.rig.objects["shop/old"], name="thief", uid="uid-thief", ips=ADDRESSES)
    node.cluster.apply([Change("set", thief)])
    until(lambda: thief.key in node.agent.binding.unattached)
    assert node.agent.binding.bound[space.index].uid == "uid-new"
    assert node.passing(space) == set()


def test_after_a_delete_the_interface_stays_closed_until_it_is_gone(node: Node) -> None:
    node.start()
    node.publish()
    space = node.sandbox()
    call = node.call(space)
    assert call.run("ADD")[0] == 0
    assert call.run("DEL") == (0, None)
    assert len(node.agent.assignments) == 0
    assert node.passing(space) == set()
    code, error = call.run("CHECK")
    assert (code, error["code"]) == (1, 100)
    assert call.run("DEL") == (0, None)


def test_an_interface_that_disappears_is_not_assigned_any_more(node: Node) -> None:
    node.start()
    node.publish()
    space = node.sandbox()
    assert node.call(space).run("ADD")[0] == 0
    del node.rig.pods[f"shop/{space.name}"]
    node.rig.net.remove(space)
    until(lambda: len(node.agent.assignments) == 0)
    again = node.sandbox()
    assert node.call(again).run("ADD")[0] == 0
    assert node.passing(again) == set()


def test_a_pod_that_took_the_address_early_keeps_its_own_policy(node: Node) -> None:
    """A neighbour with NET_ADMIN adds the next pod's address to its own interface."""
    node.start()
    node.publish("early")
    early = node.sandbox("10.244.0.8", "fd44::8")
    assert node.call(early, "early").run("ADD")[0] == 0
    ip(early, f"addr add {ADDRESSES[0]}/32 dev eth0")
    pod = node.publish()
    space = node.sandbox()
    assert node.call(space).run("ADD")[0] == 0
    node.cluster.apply([Change("set", msgspec.structs.replace(pod, ips=ADDRESSES))])
    node.agent.links_changed()
    until(lambda: node.agent.binding.bound.get(space.index, pod).ips == ADDRESSES)
    bound = node.agent.binding.bound
    assert (bound[early.index].name, bound[space.index].name) == ("early", "new")
    assert node.passing(space) == set()


def test_an_interface_that_is_no_veth_is_refused(node: Node) -> None:
    node.start()
    node.publish()
    space = node.sandbox()
    ip(space, "link set eth0 name other", "link add eth0 type bridge", "link set eth0 up")
    code, error = node.call(space).run("ADD")
    assert (code, error["code"]) == (1, 4)
    assert "is not a veth, but bridge" in error["msg"]
    code, error = dataclasses.replace(node.call(space), netns="/run/netns/none").run("ADD")
    assert (code, error["code"]) == (1, 4)


def test_an_open_plugin_starts_the_pod_and_policy_follows(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(node.settings, cni_on_failure="open", cni_wait=1)
    monkeypatch.setattr(Node, "settings", settings)
    node.start()
    space = node.sandbox()
    call = node.call(space, on_failure="open")
    assert call.run("ADD") == (0, call.previous)
    assert node.plugin.requests.counts["ADD", "let_through"] == 1
    node.publish(ips=ADDRESSES)
    until(lambda: space.index in node.agent.binding.bound and node.agent.is_attached(space.index))
    assert node.passing(space) == set()


def test_forty_pods_at_once_are_all_under_policy(node: Node) -> None:
    node.start()
    spaces = [node.sandbox(f"10.244.1.{number}", f"fd44::1:{number:x}") for number in range(1, 41)]
    for number in range(40):
        node.publish(f"new-{number}")
    started = [node.call(space, f"new-{number}").start("ADD") for number, space in enumerate(spaces)]
    for process in started:
        assert ended(process)[0] == 0
    assert {space.index for space in spaces} <= node.agent.binding.bound.keys()
    assert all(node.agent.is_attached(space.index) for space in spaces)
