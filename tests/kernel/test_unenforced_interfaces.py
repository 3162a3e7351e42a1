"""Interfaces of pods to which no veth of the node leads: they are named in the log, once, and in a metric."""

from __future__ import annotations

from pathlib import Path

import pytest
from netns import ip

from enrich.model import Pod
from probe.node.link_clock import LinkClock
from probe.node.network_view import NetworkView
from probe.unenforced_interfaces import UnenforcedInterface, UnenforcedInterfaces
from tests.kernel.rig import NODE, Rig
from tests.kernel.test_address_conflicts import Node

pytestmark = [pytest.mark.kernel, pytest.mark.one_mode]

FOUND = "a pod has an interface that is not enforced"


@pytest.fixture
def node(rig: Rig, tmp_path: Path) -> Node:
    return Node(rig, tmp_path)


def test_a_second_interface_that_is_a_macvlan_is_named(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    rig = node.rig
    outside = rig.net.pod(rig.node, "198.51.100.7")
    ip(rig.node, f"link add link {outside.link} name net1 type macvlan mode bridge",
       f"link set net1 netns {node.thief.name}")  # fmt: skip
    # Upon the pod's own interface: what goes there passes the programs.
    ip(node.thief, "link add link eth0 name own1 type macvlan mode bridge")
    node.publish("shop/thief")
    node.read()
    assert node.agent.unenforced_interfaces.found == {UnenforcedInterface("shop", "thief", "net1", "macvlan")}
    assert capsys.readouterr().out.count(FOUND) == 1
    rig.net.remove(outside)


def test_a_pod_whose_only_interface_is_a_macvlan_is_named(rig: Rig) -> None:
    outside = rig.net.pod(rig.node, "198.51.100.8")
    space = rig.net._space("macvlan", ("10.244.0.9",))
    ip(rig.node, f"link add link {outside.link} name mv0 type macvlan mode bridge", f"link set mv0 netns {space.name}")
    ip(space, "link set mv0 name eth0", "addr add 10.244.0.9/32 dev eth0", "link set eth0 up")
    view = NetworkView(rig.network, LinkClock())
    view.refresh(force=True)
    pod = Pod("shop", "alone", "uid-alone", {}, ("10.244.0.9",), NODE)
    inside = UnenforcedInterfaces(rig.network)
    inside.read({}, view.state.veths, [pod])
    assert inside.found == {UnenforcedInterface("shop", "alone", "eth0", "macvlan")}
    rig.net.remove(space)
    rig.net.remove(outside)
    inside.read({}, view.state.veths, [])
    assert not inside.found
