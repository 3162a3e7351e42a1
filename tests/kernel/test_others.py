"""Other people's qdiscs, filters and programs on a pod's interface: ours run first, and theirs are left alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from netns import Space, connects, connects_exactly_if, gets_no_answer, ip, listen, run

from probe.kernel import bpf
from probe.kernel.attach import Attachments, Mode
from probe.kernel.detach import detach
from probe.node.filters import Filters, Hook
from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.site import VIP, Site, service

pytestmark = pytest.mark.kernel

HOOKS: tuple[Hook, ...] = ("ingress", "egress")
PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}
TO_CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}
TC_ACT_OK = 0


@pytest.fixture
def pods(rig: Rig) -> tuple[Space, Space]:
    """Make a client, and a server whose policy allows port 80."""
    rig.policy("a/in", **TO_SERVER, ingress=[{"ports": [{"port": 80}]}])
    return both(rig, "a/client", 1), both(rig, "a/server", 2)


class Passing:
    """Another agent's program on both hooks of a device, before what is there: it lets everything pass."""

    def __init__(self, rig: Rig, pod: Space) -> None:
        self._rig, self._pod = rig, pod
        self._links: list[int] = []
        with bpf.closing(bpf.constant_program(action=TC_ACT_OK)) as program:
            if rig.mode == "tcx":
                kinds = (bpf.TCX_INGRESS, bpf.TCX_EGRESS)
                self._links = [rig.network.run(bpf.link_create, program, pod.index, kind) for kind in kinds]
                return
            run(rig.node, "sh", "-c", f"tc qdisc add dev {pod.link} clsact 2>/dev/null; true")
            for hook in HOOKS:
                found = Filters(rig.network).of(pod.index, hook)
                rig.network.tc("add-filter", "bpf", pod.index, max((one.handle for one in found), default=0) + 1,
                               prio=1, fd=program, name="theirs", parent=PARENT[hook], classid=1, direct_action=True,
                               protocol=3)  # fmt: skip

    def is_there(self) -> bool:
        if self._links:
            with_links = [bpf.link_info(link).ifindex for link in self._links]
            return with_links == [self._pod.index] * 2
        filters = Filters(self._rig.network)
        return all("theirs" in [one.name for one in filters.of(self._pod.index, hook)] for hook in HOOKS)

    def remove(self) -> None:
        for link in self._links:
            bpf.link_detach(link)
            os.close(link)


@pytest.fixture
def passing(rig: Rig, pods: tuple[Space, Space]) -> Iterator[list[Passing]]:
    """Hold what is put on the interfaces; it is removed in the end."""
    made: list[Passing] = []
    yield made
    for one in made:
        one.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_program_that_was_there_first_skips_ours_no_more(
    rig: Rig, pods: tuple[Space, Space], passing: list[Passing], family: int
) -> None:
    client, server = pods
    passing += [Passing(rig, client), Passing(rig, server)]
    rig.apply()
    with listen(server, family, 80), listen(server, family, 81):
        assert connects(client, server.address(family), 80)
        assert gets_no_answer(client, server.address(family), 81)
    assert all(one.is_there() for one in passing)
    assert of(rig.seen(), subject="a/server", verdict="deny")


def test_a_program_that_gets_ahead_is_overtaken(rig: Rig, pods: tuple[Space, Space], passing: list[Passing]) -> None:
    client, server = pods
    rig.apply()
    assert rig.attachments.is_attached(server.index)
    for _ in range(3):
        passing += [Passing(rig, client), Passing(rig, server)]
        assert not rig.attachments.is_attached(server.index)
        with listen(server, 4, 81):
            assert connects(client, server.address(4), 81)
            rig.apply()
            assert rig.attachments.is_attached(server.index)
            assert gets_no_answer(client, server.address(4), 81)
    assert all(one.is_there() for one in passing)
    hooks = [Filters(rig.network).of(server.index, hook) for hook in HOOKS]
    assert all(sum(one.ours for one in found) <= 1 for found in hooks)


def test_the_end_of_enforcement_leaves_what_is_not_ours(
    rig: Rig, pods: tuple[Space, Space], passing: list[Passing]
) -> None:
    client, server = pods
    passing += [Passing(rig, server)]
    rig.apply()
    passing += [Passing(rig, server), Passing(rig, client)]
    rig.attachments.detach(server.index)
    for hook in HOOKS:
        assert not Filters(rig.network).name(server.index, hook)
    rig.attachments.attach(server.index)
    links = rig.pins / "elsewhere"
    assert detach(links, rig.network) == (2 if rig.mode == "clsact" else 0)
    assert all(one.is_there() for one in passing)
    rig.apply()


def test_the_other_way_of_attaching_takes_over(rig: Rig, pods: tuple[Space, Space]) -> None:
    client, server = pods
    rig.apply()
    other: Mode = "clsact" if rig.mode == "tcx" else "tcx"
    successor = Attachments(rig.maps, rig.network, other)
    for pod in pods:
        assert successor.carries(pod.index)
        assert successor.attach(pod.index)
        assert successor.is_attached(pod.index)
        assert not rig.attachments.is_attached(pod.index)
    with listen(server, 4, 80), listen(server, 4, 81):
        assert connects(client, server.address(4), 80)
        assert gets_no_answer(client, server.address(4), 81)
    for pod in pods:
        rig.attachments.attach(pod.index)
        assert not successor.is_attached(pod.index)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interface_with_the_qdisc_ingress_is_enforced_or_closed(
    rig: Rig, pods: tuple[Space, Space], family: int
) -> None:
    """Both hooks of such an interface share one list of filters: what ours would do there is drop all or judge half."""
    client, server = pods
    for pod in pods:
        run(rig.node, "tc", "qdisc", "add", "dev", pod.link, "ingress")
    rig.apply()
    with listen(server, family, 80), listen(server, family, 81):
        assert connects_exactly_if(rig.mode == "tcx", client, server.address(family), 80)
        assert gets_no_answer(client, server.address(family), 81)
        if rig.mode == "clsact":
            assert "ingress" in rig.attachments.obstacles[server.index]
            assert not rig.attachments.is_attached(server.index)
            assert rig.attachments.carries(server.index)
            for pod in pods:
                run(rig.node, "tc", "qdisc", "del", "dev", pod.link, "ingress")
            rig.apply()
            assert connects(client, server.address(family), 80)
            assert gets_no_answer(client, server.address(family), 81)
    assert not rig.attachments.obstacles
    assert rig.attachments.is_attached(server.index)


def test_a_filter_that_nothing_can_precede_closes_the_interface(rig: Rig, pods: tuple[Space, Space]) -> None:
    client, server = pods
    run(rig.node, "tc", "qdisc", "add", "dev", client.link, "clsact")
    run(rig.node, "tc", "filter", "add", "dev", client.link, "ingress", "prio", "1", "protocol", "ip",
        "u32", "match", "u32", "0", "0", "classid", "1:7")  # fmt: skip
    rig.apply()
    with listen(server, 4, 80):
        assert connects_exactly_if(rig.mode == "tcx", client, server.address(4), 80)
        if rig.mode == "clsact":
            assert "priority 1" in rig.attachments.obstacles[client.index]
            run(rig.node, "tc", "filter", "del", "dev", client.link, "ingress", "prio", "1")
            rig.apply()
            # The pod asks for its gateway again a second after it had no answer.
            assert connects(client, server.address(4), 80)
    assert not rig.attachments.obstacles


@pytest.mark.parametrize("family", FAMILIES)
def test_packets_shaped_by_an_ifb_are_judged_behind_dnat(rig: Rig, family: int) -> None:
    """The bandwidth plugin redirects what a pod sends to an ifb, which gives it back before DNAT."""
    site = Site(rig, "routed")
    client, one, two = both(rig, "a/client", 1), both(rig, "a/one", 2), both(rig, "a/two", 3)
    ip(rig.node, "link add ifb9 type ifb", "link set ifb9 up")
    try:
        kind = "ingress" if rig.mode == "tcx" else "clsact"
        run(rig.node, "tc", "qdisc", "add", "dev", client.link, kind)
        run(rig.node, "tc", "filter", "add", "dev", client.link, "ingress", "protocol", "all", "prio",
            "1" if rig.mode == "tcx" else "2", "u32", "match", "u32", "0", "0", "action", "mirred", "egress",
            "redirect", "dev", "ifb9")  # fmt: skip
        rig.services += VIP.values()
        peers = [{"podSelector": {"matchLabels": {"app": "one"}}}]
        rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"], egress=[{"to": peers, "ports": [{"port": 8080}]}])
        site.proxy(service(family, one))
        rig.apply()
        with listen(one, family, 8080), listen(two, family, 8080):
            assert connects(client, one.address(family), 8080)
            assert connects(client, VIP[family], 80)
            site.proxy(service(family, two))
            assert gets_no_answer(client, VIP[family], 80)
        rows = of(rig.seen(), subject="a/client", direction="egress", dialled=VIP[family])
        assert [(row.verdict, row.destination) for row in rows] == [
            ("allow", one.address(family)), ("deny", two.address(family))]  # fmt: skip
        shaped = subprocess.run(["tc", "-s", "-n", rig.node.name, "filter", "show", "dev", client.link, "ingress"],
                                capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert "mirred" in shaped
    finally:
        ip(rig.node, "link del ifb9")
        site.close()
