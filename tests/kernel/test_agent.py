"""The agent on a real node: when it reads the network, and what disappears meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from netns import ip

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Pod, Service
from enrich.network_logging import LoggingSpec, NetworkLogging
from enrich.parse.objects import parse
from probe.agent import Agent
from probe.kernel.layout import Config
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.netlink import Device
from probe.node.network_view import NetworkView
from probe.unknown_interfaces import Rules
from tests.kernel.rig import NODE, Rig
from tests.waiting import until


@pytest.fixture
def cluster(rig: Rig) -> Cluster:
    """Make a cluster of two pods on the node."""
    rig.pod("shop/a", "10.244.0.2")
    rig.pod("shop/b", "10.244.0.3")
    made = [*rig.objects.values(), parse({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})]
    cluster = Cluster()
    cluster.replace_all(group_by_kind([one for one in made if one]))
    return cluster


@pytest.fixture
def agent(rig: Rig, cluster: Cluster, tmp_path: Path) -> Agent:
    """Make an agent that has made its first pass."""
    return start(rig, cluster, tmp_path)


def start(rig: Rig, cluster: Cluster, folder: Path, rules: Rules | None = None) -> Agent:
    clock = LinkClock()
    intervals = AddressIntervals(NODE, folder / "intervals", lambda _: None, clock)
    view = NetworkView(rig.network, clock)
    agent = Agent(NODE, cluster, view, rig.generation, rig.numbers, intervals, rig.mode, rules)
    agent.reconcile()
    return agent


def test_a_pod_that_disappears_during_a_pass_does_not_hinder_the_others(
    rig: Rig, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in agent.binding.bound:
        rig.attachments.detach(index)
    by_name = {pod.name: index for index, pod in agent.binding.bound.items()}
    devices = rig.network.devices

    def leave() -> list[Device]:
        if "shop/a" in rig.pods:
            rig.net.remove(rig.pods.pop("shop/a"))
        return devices()

    monkeypatch.setattr(rig.network, "devices", leave)
    agent.links_changed()
    agent.reconcile()
    assert rig.attachments.is_attached(by_name["b"])
    agent.reconcile()
    assert "shop/a" in map(str, agent.binding.unattached)


def test_policy_and_services_change_without_reading_the_network(
    rig: Rig, cluster: Cluster, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("the network was read")

    epoch, (used, _) = rig.maps.config(Config.EPOCH), agent.usage()["addresses"]
    monkeypatch.setattr(rig.network, "run", read)
    rig.policy("shop/closed", policyTypes=["Ingress"])
    cluster.apply([Change("set", made) for made in rig.policies.values()])
    cluster.apply([Change("set", Service("shop", "web", "u", ("10.96.0.7",), ("192.0.2.70",)))])
    agent.reconcile()
    assert rig.maps.config(Config.EPOCH) == epoch + 1
    assert agent.usage()["addresses"][0] == used + 2


def test_a_new_pod_is_attached_when_its_address_is_published(rig: Rig, cluster: Cluster, agent: Agent) -> None:
    rig.pod("shop/c", "10.244.0.4")
    cluster.apply([Change("set", rig.objects["shop/c"])])
    agent.reconcile()
    assert {pod.name for pod in agent.binding.bound.values()} == {"a", "b", "c"}
    assert all(rig.attachments.is_attached(index) for index in agent.binding.bound)


@pytest.mark.usefixtures("agent")
def test_the_next_probe_knows_whose_interface_disappeared(rig: Rig, cluster: Cluster, tmp_path: Path) -> None:
    rig.net.remove(rig.pods.pop("shop/a"))
    rig.pods["shop/next"] = rig.net.pod(rig.node, "10.244.0.2")  # which the API server does not show yet
    second = start(rig, cluster, tmp_path)
    assert {pod.name for pod in second.binding.bound.values()} == {"b"}
    assert "its interface disappeared" in next(iter(second.binding.unattached.values()))


def test_an_interface_that_appeared_after_a_pods_address_was_published_is_anothers(
    rig: Rig, cluster: Cluster, tmp_path: Path
) -> None:
    """The pod's own interface was there too briefly for a suspended probe to read it."""
    agent = start(rig, cluster, tmp_path)
    now = time.time_ns()
    missed = Pod("shop", "missed", "uid-missed", {}, ("10.244.0.4",), NODE, started_ns=now, acknowledged_ns=now)
    agent.start(1.0)
    try:
        cluster.apply([Change("set", missed)])
        until(lambda: missed.key in agent.binding.unattached)
        published = time.time_ns()
        # Before that, an interface that appears may have appeared before the address was published.
        until(lambda: agent._view.clock.caught_up_ns > published)
        rig.pod("shop/next", "10.244.0.4")  # which the API server does not show yet
        (index,) = [veth.index for veth in rig.network.veths() if "10.244.0.4" in veth.addresses]
        _wait_for_a_read(agent)
        _wait_for_a_read(agent)  # it begins when the pass of the first has ended
        assert index not in agent.binding.bound
        cluster.apply([Change("set", rig.objects["shop/next"])])
        until(lambda: index in agent.binding.bound)
        assert agent.binding.bound[index].name == "next"
    finally:
        agent.stop()


def _wait_for_a_read(agent: Agent) -> None:
    now = time.time_ns()
    agent.links_changed()
    until(lambda: agent._view.state.read_at_ns > now)


def test_what_is_logged_changes_without_a_change_of_policy(rig: Rig, cluster: Cluster, agent: Agent) -> None:
    epoch = rig.maps.config(Config.EPOCH)
    agent.start(5.0)
    try:
        cluster.replace(NetworkLogging, [NetworkLogging("default", "", LoggingSpec())])
        until(lambda: agent.logging.modes == {"allowed": "none", "default_allowed": "none", "denied": "none"})
        until(lambda: rig.maps.config(Config.LOGGING) != 0)
        cluster.replace(NetworkLogging, [NetworkLogging("default", "", invalid="spec: must be an object")])
        until(lambda: any("the last valid one stays in force" in line for line in agent.notes()))
        cluster.replace(NetworkLogging, [])
        until(lambda: agent.logging.modes["denied"] == "all" and rig.maps.config(Config.LOGGING) == 0)
    finally:
        agent.stop()
    assert rig.maps.config(Config.EPOCH) == epoch


def test_the_pods_are_known_to_be_there_also_while_nothing_changes_and_until_a_stop(
    rig: Rig, cluster: Cluster, tmp_path: Path
) -> None:
    """The next probe ends the interval of a pod that has disappeared meanwhile where this one saw it last."""
    agent, file = start(rig, cluster, tmp_path), tmp_path / "intervals"
    agent._intervals.start("c1")
    agent.start(5.0)
    try:
        until(lambda: agent.problem() is None)
        _wait_for_a_read(agent)
        seen, read_at_ns = file.stat().st_mtime_ns, agent._view.state.read_at_ns
        until(lambda: file.stat().st_mtime_ns > max(seen, read_at_ns) + 2_000_000_000)
        until(lambda: agent._view.clock.caught_up_ns > file.stat().st_mtime_ns)
        caught_up_ns = agent._view.clock.caught_up_ns
    finally:
        agent.stop()
    assert file.stat().st_mtime_ns >= caught_up_ns


@pytest.mark.parametrize("closed", [False, True])
def test_an_interface_that_leaves_a_bridge_is_not_gone(
    rig: Rig, cluster: Cluster, tmp_path: Path, closed: bool
) -> None:
    """The kernel announces that with a message of the kind by which it announces that a link is gone."""
    agent = start(rig, cluster, tmp_path, Rules(closed=closed))
    (index,) = [index for index, pod in agent.binding.bound.items() if pod.name == "a"]
    ip(rig.node, "link add br7 type bridge")
    agent.start(5.0)
    try:
        ip(rig.node, f"link set {rig.pods['shop/a'].link} master br7")
        ip(rig.node, f"link set {rig.pods['shop/a'].link} nomaster")
        now = time.time_ns()
        until(lambda: agent._view.clock.caught_up_ns > now)
        _wait_for_a_read(agent)
        assert agent._view.clock.disappeared(index) is None
        assert index in agent.binding.bound
        assert agent.is_attached(index)
    finally:
        agent.stop()
        ip(rig.node, "link del br7")
