"""A policy that outgrows the maps closes the pods that it selects, and no others."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from netns import Net, Space, connects, gets_no_answer, ip, listen

from enrich.index.cluster import Change, Cluster, group_by_kind
from enrich.model import Name, Node, Object, Service
from enrich.parse.objects import parse
from probe.agent import Agent
from probe.kernel.attach import Mode
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.network_view import NetworkView
from tests.kernel.rig import FAMILIES, NODE, NODE_IPS, SIZES, Rig, both, of
from tests.waiting import until

pytestmark = pytest.mark.kernel

PORT = 8080
SMALL = {**SIZES, "POLICY_ENTRIES": 256, "ADDRESSES": 1024, "ENDPOINTS": 6, "LOCAL_ADDRESSES": 64}
RULES = [{"to": [{"ipBlock": {"cidr": f"100.64.{number // 256}.{number % 256}/32"}}]} for number in range(300)]
"""Blocks that rules distinguish: each takes a policy entry."""
BLOCKS = [{"to": [{"ipBlock": {"cidr": f"100.{64 + number // 256}.{number % 256}.0/24"}} for number in range(1200)]}]
"""One list, which outgrows the addresses."""


class Site:
    """A node with the tenants ``big`` and ``shop``, and a host of the world."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig, self.cluster = rig, Cluster()
        self.world = rig.net.pod(rig.node, "198.51.100.1", "2001:db8:9::1")
        for number, name in enumerate(("big/a", "shop/server", "shop/client"), 1):
            both(rig, name, number)
        rig.namespace("late")
        rig.policy("shop/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[
            {"from": [{"podSelector": {}}]}])  # fmt: skip
        rig.policy("late/none", policyTypes=["Ingress", "Egress"])
        node = Node(NODE, "n1-uid", {}, NODE_IPS)
        objects: list[Object] = [*rig.objects.values(), *rig.namespaces.values(), *rig.policies.values(), node]
        self.cluster.replace_all(group_by_kind(objects))
        clock = LinkClock()
        intervals = AddressIntervals(NODE, folder / "intervals", lambda _: None, clock)
        view = NetworkView(rig.network, clock)
        self.agent = Agent(NODE, self.cluster, view, rig.generation, rig.numbers, intervals, rig.mode)
        self.agent.reconcile()

    def policy(self, name: str, **spec: Any) -> None:
        """Write a policy, and make a pass."""
        self.rig.policy(name, **spec)
        namespace, short = name.split("/")
        self.cluster.apply([Change("set", self.rig.policies[Name(namespace, short)])])
        self.agent.reconcile()

    def delete(self, name: str) -> None:
        namespace, short = name.split("/")
        self.cluster.apply([Change("delete", self.rig.policies.pop(Name(namespace, short)))])
        self.agent.reconcile()

    def start(self, name: str, number: int) -> Space:
        """Start a pod, and make a pass."""
        space = both(self.rig, name, number)
        self.cluster.apply([Change("set", self.rig.objects[name])])
        self.agent.links_changed()
        self.agent.reconcile()
        return space

    def connects(self, client: str, server: Space, family: int) -> bool:
        return connects(self.rig.pods[client], server.address(family), PORT)

    def gets_no_answer(self, client: str, server: Space, family: int) -> bool:
        return gets_no_answer(self.rig.pods[client], server.address(family), PORT)


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    mode: Mode = request.param
    pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    rig = Rig(tmp_path, mode, pins=pins, net=Net(), sizes=SMALL)
    try:
        yield Site(rig, tmp_path)
    finally:
        rig.close()


both_modes = pytest.mark.parametrize("site", ["tcx", "clsact"], indirect=True)
one_mode = pytest.mark.parametrize("site", ["tcx"], indirect=True)


@contextlib.contextmanager
def listening(*servers: Space) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for server in servers:
            for family in FAMILIES:
                stack.enter_context(listen(server, family, PORT))
        yield


@both_modes
@pytest.mark.parametrize("rules", [RULES, BLOCKS], ids=["rules", "blocks"])
def test_a_flood_of_blocks_closes_its_own_tenant_only(site: Site, rules: list[dict[str, Any]]) -> None:
    server = site.rig.pods["shop/server"]
    with listening(server, site.world):
        site.policy("big/list", policyTypes=["Egress"], egress=rules)
        assert site.agent.problem() is None
        assert [str(name) for name in site.agent.incomplete] == ["big/a"]
        note = next(line for line in site.agent.notes() if line.startswith("closed: pod big/a"))
        assert "big/list" in note
        assert "WEIR_" in note
        for family in FAMILIES:
            assert site.connects("shop/client", server, family)
            assert site.gets_no_answer("big/a", site.world, family)
            assert site.gets_no_answer("big/a", server, family)
        until(lambda: bool(of(site.rig.seen(), subject="big/a", verdict="deny", reason="policy_incomplete")))

        # Another tenant revokes what it allowed.
        site.policy("shop/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[])
        for family in FAMILIES:
            assert site.gets_no_answer("shop/client", server, family)

        # A pod starts under a third tenant's policy.
        late = site.start("late/new", 4)
        with listening(late):
            for family in FAMILIES:
                assert site.gets_no_answer("late/new", site.world, family)
                assert gets_no_answer(site.world, late.address(family), PORT)
            site.policy("late/open", policyTypes=["Egress"], egress=[{}])
            for family in FAMILIES:
                assert site.connects("late/new", site.world, family)

        # The policy goes, and all is right again.
        site.delete("big/list")
        assert not site.agent.incomplete
        for family in FAMILIES:
            assert site.connects("big/a", site.world, family)


@one_mode
def test_a_new_pod_of_the_large_tenant_is_closed_from_its_first_packet(site: Site) -> None:
    site.policy("big/list", policyTypes=["Egress"], egress=RULES)
    site.start("big/b", 4)
    with listening(site.world):
        for family in FAMILIES:
            assert site.gets_no_answer("big/b", site.world, family)
    assert sorted(map(str, site.agent.incomplete)) == ["big/a", "big/b"]


@one_mode
def test_a_changed_policy_that_fits_only_without_its_former_version_comes_into_force(site: Site) -> None:
    listed = {"to": [{"ipBlock": {"cidr": "198.51.100.1/32"}}, {"ipBlock": {"cidr": "2001:db8:9::1/128"}}]}
    site.policy("big/list", policyTypes=["Egress"], egress=RULES[:150])
    assert not site.agent.incomplete
    site.policy("big/list", policyTypes=["Egress"], egress=[*RULES[:150], listed])
    site.agent.reconcile()
    assert not site.agent.incomplete
    with listening(site.world):
        for family in FAMILIES:
            assert site.connects("big/a", site.world, family)


@both_modes
def test_pods_that_do_not_fit_the_map_are_attached_and_closed(site: Site) -> None:
    pods = {name: site.start(name, number) for number, name in enumerate(
        ("shop/d", "shop/e", "shop/f", "shop/g"), 4)}  # fmt: skip
    closed = {str(name) for name in site.agent.incomplete}
    assert closed == {"shop/g"}
    assert all(site.rig.attachments.is_attached(space.index) for space in pods.values())
    with listening(site.world):
        for family in FAMILIES:
            for name in pods:
                assert (site.gets_no_answer if name in closed else site.connects)(name, site.world, family)
        # A pod goes, and there is room again.
        gone = site.rig.objects.pop("shop/client")
        site.rig.net.remove(site.rig.pods.pop("shop/client"))
        site.cluster.apply([Change("delete", gone)])
        site.agent.links_changed()
        site.agent.reconcile()
        site.agent.reconcile()
        assert not site.agent.incomplete
        # Neighbour discovery that was dropped before is tried again after a while.
        assert all(site.connects("shop/g", site.world, family) for family in FAMILIES)


@one_mode
def test_an_installation_that_fails_leaves_no_interface_open(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the kernel is out of order")

    monkeypatch.setattr(site.agent._installer, "install", fail)
    with pytest.raises(OSError, match="out of order"):
        site.start("late/new", 4)
    assert site.rig.attachments.is_attached(site.rig.pods["late/new"].index)
    with listening(site.world, site.rig.pods["shop/server"]):
        for family in FAMILIES:
            assert site.gets_no_answer("late/new", site.world, family)
            assert site.connects("shop/client", site.rig.pods["shop/server"], family)


@both_modes
def test_a_node_with_more_addresses_than_fit_enforces_on(site: Site) -> None:
    """kube-proxy in IPVS mode gives the node every address of every Service, and a tenant may give a Service many."""
    held = [f"10.96.1.{number}" for number in range(1, 61)] + [f"fd96::1:{number}" for number in range(1, 61)]
    many = parse({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "big", "name": "many"},
                  "spec": {"clusterIP": "10.96.0.9", "externalIPs": held, "ports": [{"port": 80}]}})  # fmt: skip
    assert isinstance(many, Service)
    server = site.rig.pods["shop/server"]
    for services in ([Change("set", many)], [Change("delete", many)]):
        site.cluster.apply(services)
        ip(site.rig.node, *(f"addr replace {address}/{128 if ':' in address else 32} dev lo" for address in held))
        site.agent.links_changed()
        with listening(server):
            # Policy that is changed now comes into force.
            site.policy("shop/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[])
            assert site.agent.problem() is None
            assert any(note.startswith("left out: ") and "WEIR_LOCAL_ADDRESSES" in note for note in site.agent.notes())
            assert all(site.gets_no_answer("shop/client", server, family) for family in FAMILIES)
            site.policy("shop/server", podSelector={"matchLabels": {"app": "server"}}, ingress=[
                {"from": [{"podSelector": {}}]}])  # fmt: skip
            assert all(site.connects("shop/client", server, family) for family in FAMILIES)
    # A pod that starts now is enforced, because a part of the map is for pods.
    late = site.start("late/new", 4)
    site.agent.reconcile()
    assert not site.agent.incomplete
    with listening(site.world, late):
        for family in FAMILIES:
            assert site.gets_no_answer("late/new", site.world, family)
            assert connects(site.rig.node, late.address(family), PORT)
    ip(site.rig.node, *(f"addr del {address}/{128 if ':' in address else 32} dev lo" for address in held))
    site.agent.links_changed()
    site.agent.reconcile()
    site.agent.reconcile()
    assert not site.agent.notes()
