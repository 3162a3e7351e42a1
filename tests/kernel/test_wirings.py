"""Policy on nodes that are wired as CNI plugins of clusters and clouds do it, with the plugin weir-cni and without.

docs/recipes.md says what each wiring stands for. Of a cloud, this imitates how pods are connected to the node, and no
more.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from netns import Space, connects, gets_no_answer, listen

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Node as NodeObject
from enrich.model import Object, Service
from probe.agent import Agent
from probe.cni.installation import Installation, Places
from probe.cni.plugin import Plugin
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.network_view import NetworkView
from probe.settings import Settings
from probe.unknown_interfaces import Rules
from tests.cni import Call, program, short_folder
from tests.kernel.pairs import pairwise
from tests.kernel.rig import NODE, NODE_IPS, Rig, Seen, _pod, of
from tests.kernel.site import NODE_PORT, VIP, node_port, service
from tests.kernel.wirings import ELSEWHERE, FAR, WIRINGS, WORLD, Wiring
from tests.waiting import until

pytestmark = pytest.mark.kernel

WAIT_S: Final = 60
PORT: Final = 8080
_TRIES: Final = 150
"""Times that a connection is tried that is to be denied, 0.4 s each."""
NAMES: Final = {"a/client": 11, "a/server": 12, "a/stranger": 13, "a/closed": 14}


class Wired:
    """A wired node with a probe and four pods: a client that may reach a server, a stranger, and a closed one."""

    def __init__(self, rig: Rig, folder: Path, wiring: type[Wiring], *, plugin: bool) -> None:
        self.rig, self.folder = rig, folder
        self._rows: list[Seen] = []
        for table in ("endpoints", "local_addresses"):  # nothing is known of other tests' pods
            for key in rig.maps[table].items():
                rig.maps[table].drop(key)
        self.wiring = wiring(rig)
        self.site = self.wiring.site
        self.families = wiring.families
        rig.elsewhere("a/far", *FAR.values())
        self._policies()
        own = NodeObject(NODE, "n1-uid", {}, NODE_IPS, "", wiring.ranges)
        self.cluster = Cluster()
        self.cluster.replace_all(group_by_kind(self._objects(own)))
        clock = LinkClock()
        intervals = AddressIntervals(NODE, folder / "intervals", lambda _: None, clock)
        rules = Rules(plugin, Settings().pod_interfaces)
        view = NetworkView(rig.network, clock)
        self.agent = Agent(NODE, self.cluster, view, rig.generation, rig.numbers, intervals, rig.mode, rules)
        self.agent.start(1.0)
        self.plugin = self._plugin() if plugin else None
        until(lambda: self.agent.problem() is None)

    def _objects(self, own: NodeObject) -> list[Object]:
        rig = self.rig
        service_of_both = Service("a", "front", "uid-front", tuple(VIP.values()))
        return [own, service_of_both, *rig.others.values(), *rig.namespaces.values(), *rig.policies.values()]

    def _plugin(self) -> Plugin:
        settings = dataclasses.replace(Settings(), node=NODE, run_dir=self.folder, cni="on", cni_wait=WAIT_S)
        made = Plugin(settings, self.cluster, self.rig.network, self.agent.assignments, self.agent, None)
        (self.folder / "conf").mkdir()
        (self.folder / "conf/10-net.conflist").write_text('{"name": "net", "plugins": [{"type": "ptp"}]}')
        made._installation = Installation(Places(program(), self.folder / "bin", self.folder / "conf"), {})
        made.start()
        return made

    def _policies(self) -> None:
        far, world = _selects("far"), [{"ipBlock": {"cidr": f"{WORLD[f]}/{128 if f == 6 else 32}"}} for f in (4, 6)]
        ports = [{"port": PORT}]
        self.rig.policy("a/in", **_selects("server"), policyTypes=["Ingress"],
                        ingress=[{"from": [_selects("client"), far, *world], "ports": ports}])  # fmt: skip
        self.rig.policy("a/out", **_selects("client"), policyTypes=["Egress"],
                        egress=[{"to": [_selects("server"), far, *world], "ports": ports}])  # fmt: skip
        self.rig.policy("a/shut", **_selects("closed"), policyTypes=["Ingress", "Egress"])

    def start(self, name: str) -> Space:
        """Start a pod as kubelet and the runtime do: the API server has its address last."""
        space, pod = self.begin(name)
        if self.plugin:
            self.add(name, space)
        self.publish(pod)
        until(lambda: space.index in self.agent.binding.bound and self.agent.is_attached(space.index))
        return space

    def begin(self, name: str) -> tuple[Space, Any]:
        """Publish a pod without an address, and make its network."""
        addresses = self.wiring.addresses(NAMES[name])
        pod = self.rig.objects[name] = _pod(name, addresses, NODE, None, {})
        self.publish(msgspec.structs.replace(pod, ips=()))
        space = self.rig.pods[name] = self.wiring.connect(NAMES[name])
        return space, pod

    def add(self, name: str, space: Space) -> None:
        """Run the program weir-cni as the runtime does, behind the plugin that made the network."""
        uid = self.rig.objects[name].uid
        call = Call(self.folder / "cni.sock", str(space.path), name, uid, space.name, space.addresses, WAIT_S)
        assert call.run("ADD") == (0, call.previous)

    def publish(self, pod: Any) -> None:
        self.cluster.apply([Change("set", pod)])
        self.agent.links_changed()

    def reaches(self, source: Space, destination: Space, family: int, port: int = PORT, dialled: str = "") -> bool:
        with listen(destination, family, PORT if dialled else port):
            return connects(source, dialled or destination.address(family), port)

    def is_cut_off(self, source: Space, destination: Space, family: int, port: int = PORT, dialled: str = "") -> bool:
        """Return whether a connection gets no answer because it is denied.

        As long as a neighbour has to be found, there is no answer either, but nothing to judge: then it is tried again.
        """
        there = PORT if dialled else port
        with listen(destination, family, there):
            for _ in range(_TRIES):
                if not gets_no_answer(source, dialled or destination.address(family), port):
                    return False
                new = self.rig.seen()
                self._rows += new
                if any(row.verdict == "deny" and row.port == there for row in new):
                    return True
        return False

    def seen(self) -> list[Seen]:
        """Return all verdicts since the last call."""
        found, self._rows = [*self._rows, *self.rig.seen()], []
        return found

    def close(self) -> None:
        if self.plugin:
            self.plugin.stop()
        self.agent.stop()
        for index in self.agent._attachments.links():
            self.agent._attachments.detach(index)
        for space in self.rig.pods.values():
            self.rig.net.remove(space)
        self.rig.pods.clear()
        self.wiring.close()


def _selects(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


@pytest.fixture
def wired(rig: Rig, wiring: str, way: str) -> Iterator[Wired]:
    folder = short_folder()
    made = Wired(rig, folder, WIRINGS[wiring], plugin=way == "plugin")
    yield made
    made.close()
    shutil.rmtree(folder)


MODES: Final = ("tcx", "clsact")
# Each wiring with the plugin and without, and each by both ways of attaching.
every_wiring = pairwise(indirect=["_rig"], _rig=MODES, wiring=list(WIRINGS), way=["plugin", "without"])


def names_of(verdicts: list[Seen]) -> set[tuple[str, str, str, str]]:
    """Return subject, direction, verdict and reason of each."""
    return {(one.subject, one.direction, one.verdict, one.reason) for one in verdicts}


@every_wiring
def test_pods_of_the_node_reach_what_policy_allows(wired: Wired) -> None:
    client, server, stranger = (wired.start(f"a/{name}") for name in ("client", "server", "stranger"))
    for family in wired.families:
        wired.seen()
        address = server.address(family)
        assert wired.reaches(client, server, family)
        assert wired.is_cut_off(client, server, family, PORT + 1)
        assert wired.is_cut_off(stranger, server, family)
        rows = [row for row in wired.seen() if row.destination == address]
        sides = of(rows, source=client.address(family), port=PORT)
        assert {(row.subject, row.direction, row.verdict, row.policies) for row in sides} == {
            ("a/client", "egress", "allow", ("a/out",)),
            ("a/server", "ingress", "allow", ("a/in",)),
        }
        assert names_of(of(rows, port=PORT + 1)) == {("a/client", "egress", "deny", "default_deny")}
        assert names_of(of(rows, source=stranger.address(family), verdict="deny")) == {
            ("a/server", "ingress", "deny", "default_deny")
        }


@every_wiring
def test_other_nodes_and_outside_hosts_are_told_apart(wired: Wired) -> None:
    """What leaves the VPC is masqueraded: the verdict is of the pod, and judged before."""
    site, wiring = wired.site, wired.wiring
    client, server = wired.start("a/client"), wired.start("a/server")
    site.proxy(masquerade=wiring.masquerade())
    for family in wired.families:
        wired.seen()
        for outside in (site.remote, wiring.world):
            assert wired.reaches(client, outside, family)
            assert wired.is_cut_off(client, outside, family, PORT + 1)
            assert wired.reaches(outside, server, family)
            assert wired.is_cut_off(outside, server, family, PORT + 1)
        assert wired.is_cut_off(client, wiring.elsewhere, family)
        assert wired.is_cut_off(wiring.elsewhere, server, family)
        rows = wired.seen()
        for outside in (site.remote, wiring.world):
            address = outside.address(family)
            out, into = of(rows, destination=address), of(rows, source=address)
            assert {(row.subject, row.source, row.verdict, row.port) for row in out} == {
                ("a/client", client.address(family), "allow", PORT),
                ("a/client", client.address(family), "deny", PORT + 1),
            }
            assert {(row.subject, row.destination, row.verdict, row.port) for row in into} == {
                ("a/server", server.address(family), "allow", PORT),
                ("a/server", server.address(family), "deny", PORT + 1),
            }
        assert names_of([*of(rows, destination=ELSEWHERE[family]), *of(rows, source=ELSEWHERE[family])]) == {
            ("a/client", "egress", "deny", "default_deny"),
            ("a/server", "ingress", "deny", "default_deny"),
        }


@every_wiring
def test_a_closed_pod_has_its_node_only(wired: Wired) -> None:
    rig, site = wired.rig, wired.site
    closed, stranger = wired.start("a/closed"), wired.start("a/stranger")
    for family in wired.families:
        wired.seen()
        assert wired.reaches(rig.node, closed, family), "kubelet's probes"
        assert wired.reaches(closed, rig.node, family)
        assert {(row.verdict, row.reason) for row in wired.seen()} == {("allow", "node")}
        for other in (stranger, site.remote, wired.wiring.world):
            assert wired.is_cut_off(closed, other, family)
            assert wired.is_cut_off(other, closed, family)
        # A bridge with multicast snooping asks its ports, which is the node's.
        rows = [row for row in of(wired.seen(), subject="a/closed") if row.reason != "node"]
        assert {(row.verdict, row.reason) for row in rows} == {("deny", "default_deny")}
        assert {row.direction for row in rows} == {"egress", "ingress"}


@every_wiring
def test_services_are_judged_behind_dnat(wired: Wired) -> None:
    rig, site = wired.rig, wired.site
    client, server, stranger = (wired.start(f"a/{name}") for name in ("client", "server", "stranger"))
    for family in wired.families:
        vip = VIP[family]
        site.proxy(service(family, server))
        wired.seen()
        assert wired.reaches(client, server, family, 80, dialled=vip)
        site.proxy(service(family, stranger))
        assert wired.is_cut_off(client, stranger, family, 80, dialled=vip)
        rows = of(wired.seen(), subject="a/client", direction="egress", dialled=vip)
        # The second SYN may come in the next deny window, and then has a verdict of its own.
        assert list(dict.fromkeys((row.verdict, row.destination, row.port) for row in rows)) == [
            ("allow", server.address(family), PORT),
            ("deny", stranger.address(family), PORT),
        ]
        # From outside, by the node's address: without masquerading (externalTrafficPolicy: Local).
        site.proxy(node_port(family, rig.node, server))
        node = rig.node.address(family)
        assert wired.reaches(wired.wiring.world, server, family, NODE_PORT, dialled=node)
        assert wired.is_cut_off(wired.wiring.elsewhere, server, family, NODE_PORT, dialled=node)
        rows = of(wired.seen(), subject="a/server", direction="ingress")
        assert {(row.source, row.verdict) for row in rows if row.source in (WORLD[family], ELSEWHERE[family])} == {
            (WORLD[family], "allow"),
            (ELSEWHERE[family], "deny"),
        }


@pytest.mark.parametrize("way", ["plugin"])
@pytest.mark.parametrize(
    ("_rig", "wiring"), list(zip(itertools.cycle(MODES), WIRINGS, strict=False)), indirect=["_rig"]
)
def test_with_the_plugin_no_packet_of_a_pod_passes_before_its_policy(wired: Wired) -> None:
    """What is made for a pod is closed at once; when ADD has answered, the pod's first connections are judged."""
    rig, server = wired.rig, wired.start("a/server")
    client, _ = wired.begin("a/client")
    until(lambda: client.link in wired.agent.closed)
    for family in wired.families:
        assert wired.is_cut_off(client, server, family)
        assert wired.is_cut_off(wired.site.remote, client, family)
        assert wired.reaches(rig.node, client, family)
    assert {row.reason for row in wired.seen() if row.verdict == "deny"} == {"not_ready"}
    wired.add("a/client", client)
    assert wired.agent.is_attached(client.index)
    for family in wired.families:
        wired.seen()
        assert wired.is_cut_off(client, server, family, PORT + 1)
        assert wired.reaches(client, server, family)
        rows = of(wired.seen(), subject="a/client")
        assert {(row.verdict, row.port) for row in rows} == {("deny", PORT + 1), ("allow", PORT)}
