"""The agent on a real node: when it looks at the network, and what goes while it does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Pod, Service
from enrich.parse.objects import parse
from probe.agent import Agent
from probe.kernel.layout import Config
from probe.node.address_intervals import AddressIntervals
from probe.node.netlink import Device
from tests.kernel.rig import NODE, Rig
from tests.waiting import until


@pytest.fixture
def cluster(rig: Rig) -> Cluster:
    """With two pods, that are on the node."""
    rig.pod("shop/a", "10.244.0.2")
    rig.pod("shop/b", "10.244.0.3")
    made = [*rig.objects.values(), parse({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})]
    cluster = Cluster()
    cluster.replace_all(group_by_kind([one for one in made if one]))
    return cluster


@pytest.fixture
def agent(rig: Rig, cluster: Cluster, tmp_path: Path) -> Agent:
    """One that has done its first work."""
    return start(rig, cluster, tmp_path)


def start(rig: Rig, cluster: Cluster, folder: Path) -> Agent:
    holds = AddressIntervals(NODE, folder / "h", lambda _: None)
    agent = Agent(NODE, cluster, rig.network, rig.maps, rig.numbers, holds, rig.mode)
    agent.reconcile()
    return agent


def test_a_pod_that_goes_while_it_is_looked_at_does_not_hold_up_the_others(
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
    assert "shop/a" in map(str, agent.binding.waiting)


def test_policy_and_services_change_without_a_look_at_the_network(
    rig: Rig, cluster: Cluster, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: Any) -> None:
        raise AssertionError("netlink was asked")

    epoch, (used, _) = rig.maps.config(Config.EPOCH), agent.usage()["addresses"]
    monkeypatch.setattr(rig.network, "run", look)
    rig.policy("shop/closed", policyTypes=["Ingress"])
    cluster.apply([Change("set", made) for made in rig.policies.values()])
    cluster.apply([Change("set", Service("shop", "web", "u", ("10.96.0.7",), ("192.0.2.70",)))])
    agent.reconcile()
    assert rig.maps.config(Config.EPOCH) == epoch + 1
    assert agent.usage()["addresses"][0] == used + 2


def test_what_came_and_was_told_is_looked_at(rig: Rig, cluster: Cluster, agent: Agent) -> None:
    rig.pod("shop/c", "10.244.0.4")
    cluster.apply([Change("set", rig.objects["shop/c"])])
    agent.reconcile()
    assert {pod.name for pod in agent.binding.bound.values()} == {"a", "b", "c"}
    assert all(rig.attachments.is_attached(index) for index in agent.binding.bound)


@pytest.mark.usefixtures("agent")
def test_the_next_probe_knows_whose_interface_went(rig: Rig, cluster: Cluster, tmp_path: Path) -> None:
    rig.net.remove(rig.pods.pop("shop/a"))
    rig.pods["shop/next"] = rig.net.pod(rig.node, "10.244.0.2")  # of which the API does not know yet
    second = start(rig, cluster, tmp_path)
    assert {pod.name for pod in second.binding.bound.values()} == {"b"}
    assert "its interface went" in next(iter(second.binding.waiting.values()))


def test_an_interface_that_came_after_a_kubelet_told_a_pods_address_is_anothers(
    rig: Rig, cluster: Cluster, tmp_path: Path
) -> None:
    """The pod's own was there too shortly for a probe that is held up to look at it."""
    agent = start(rig, cluster, tmp_path)
    now = time.time_ns()
    missed = Pod("shop", "missed", "uid-missed", {}, ("10.244.0.4",), NODE, started_ns=now, acknowledged_ns=now)
    agent.start(1.0)
    try:
        cluster.apply([Change("set", missed)])
        until(lambda: missed.key in agent.binding.waiting)
        told = time.time_ns()
        until(lambda: agent._dry_ns > told)  # before that, what comes may have come before it was told
        rig.pod("shop/next", "10.244.0.4")  # of which the API does not know yet
        (index,) = [veth.index for veth in rig.network.veths() if "10.244.0.4" in veth.addresses]
        came = time.time_ns()
        agent.links_changed()
        until(lambda: agent._looked.at_ns > came)
        agent.links_changed()
        came = time.time_ns()
        until(lambda: agent._looked.at_ns > came)  # and what was looked at before is done
        assert index not in agent.binding.bound
        cluster.apply([Change("set", rig.objects["shop/next"])])
        until(lambda: index in agent.binding.bound)
        assert agent.binding.bound[index].name == "next"
    finally:
        agent.stop()
