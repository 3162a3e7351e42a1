"""What NAT hides, judged where it leaves the node: two nodes, routed and bridged, DNAT by nftables, TCX and clsact."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from netns import PATIENCE_S, Space, connects, connects_exactly_if, gets_no_answer, ip, listen, open_socket, run

from tests.kernel.frames import Wire, ipv4, ipv6, udp
from tests.kernel.rig import FAMILIES, Rig, Seen, both, of
from tests.kernel.site import NODE_PORT, VIP, Site, node_port, service
from tests.waiting import until

pytestmark = pytest.mark.kernel

TO_CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}
ANY_PORT = [{"ports": [{"port": 8080}]}]


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    rig.services += VIP.values()
    yield made
    made.close()


def egress(rig: Rig, *to: str, port: int = 8080, protocol: str = "TCP") -> None:
    """The client may reach these apps on the backend's port, and nothing else."""
    peers = [{"podSelector": {"matchLabels": {"app": app}}} for app in to]
    rule = {"to": peers, "ports": [{"port": port, "protocol": protocol}]}
    rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"], egress=[rule] if to else [])
    rig.apply()


def told(rig: Rig, subject: str, **wanted: str) -> list[Seen]:
    """The subject's rows, without a bridge's own multicast reports (IGMP).

    Of rows that say the same one after another the first: a connection that was closed before the policy changed may
    have its last packets after that.
    """
    rows = [row for row in of(rig.seen(), subject=subject, **wanted) if not row.destination.startswith("224.")]
    same = [replace(row, count=0) for row in rows]
    return [row for number, row in enumerate(rows) if not number or same[number] != same[number - 1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_is_judged_by_its_backend(site: Site, family: int) -> None:
    rig = site.rig
    client, one, two = both(rig, "a/client", 1), both(rig, "a/one", 2), both(rig, "a/two", 3)
    with listen(one, family, 8080), listen(two, family, 8080):
        for backend, allowed in ((one, True), (two, False), (one, True)):
            site.proxy(service(family, backend))
            egress(rig, "one")
            assert connects_exactly_if(allowed, client, VIP[family], 80)
            out = told(rig, "a/client")
            assert [(row.direction, row.verdict, row.destination, row.port) for row in out] == [
                ("egress", "allow" if allowed else "deny", backend.address(family), 8080)
            ]
            assert (out[0].source, out[0].dialled, out[0].dialled_port) == (client.address(family), VIP[family], 80)
            assert out[0].policies == ("a/out",)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backend_on_another_node(site: Site, family: int) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    rig.elsewhere("a/far", *site.remote.addresses)
    site.proxy(service(family, site.remote))
    with listen(site.remote, family, 8080):
        egress(rig, "far")
        assert connects(client, VIP[family], 80)
        egress(rig, "near")
        assert gets_no_answer(client, VIP[family], 80)
        egress(rig, "far")
        assert connects(client, VIP[family], 80)
    rows = [(row.verdict, row.destination, row.dialled) for row in told(rig, "a/client")]
    far = site.remote.address(family)
    assert rows == [("allow", far, VIP[family]), ("deny", far, VIP[family]), ("allow", far, VIP[family])]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_an_endpoint_the_services_address_is_the_worlds(site: Site, family: int) -> None:
    """Nothing translates it: it goes out to where everything goes, and is judged as what it says."""
    rig = site.rig
    client = both(rig, "a/client", 1)
    device = "route add default via 10.99.0.2", "route add default via fd99::2 dev up0"
    ip(rig.node, *device)
    egress(rig, "one")
    assert gets_no_answer(client, VIP[family], 80)
    assert [(row.verdict, row.destination, row.dialled) for row in told(rig, "a/client")] == [("deny", VIP[family], "")]
    ip(rig.node, *(line.replace("add", "del") for line in device))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_that_the_watch_has_not_seen_is_closed(site: Site, family: int) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    rig.services.clear()
    site.proxy(service(family, one))
    egress(rig, "one")
    with listen(one, family, 8080):
        assert gets_no_answer(client, VIP[family], 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masquerade_hides_nobody(site: Site, family: int) -> None:
    rig = site.rig
    client, other, one = both(rig, "a/client", 1), both(rig, "a/other", 3), both(rig, "a/one", 2)
    site.proxy(service(family, one), masquerade="ct status dnat")
    rig.policy("a/in", podSelector={"matchLabels": {"app": "one"}}, ingress=[{"from": [TO_CLIENT]}])
    rig.apply()
    with listen(one, family, 8080):
        assert connects(client, VIP[family], 80)
        assert gets_no_answer(other, VIP[family], 80)
    into = told(rig, "a/one")
    assert [(row.verdict, row.source, row.dialled) for row in into] == [
        ("allow", client.address(family), VIP[family]),
        ("deny", other.address(family), VIP[family]),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_that_reaches_itself_by_its_service_is_itself(site: Site, family: int) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    site.proxy(service(family, client), masquerade="ct status dnat")
    rig.policy("a/none", **TO_CLIENT, policyTypes=["Ingress", "Egress"])
    rig.apply()
    with listen(client, family, 8080):
        assert connects(client, VIP[family], 80)
    assert {(row.verdict, row.reason) for row in told(rig, "a/client")} == {("allow", "self")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masquerade", ["", "ct status dnat"])
def test_a_node_port_from_a_pod_and_from_outside(site: Site, family: int, masquerade: str) -> None:
    rig, node = site.rig, site.rig.node
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(node_port(family, node, one), masquerade=masquerade)
    rig.policy("a/in", podSelector={"matchLabels": {"app": "one"}}, ingress=[{"from": [TO_CLIENT]}])
    with listen(one, family, 8080):
        egress(rig, "one")
        assert connects(client, node.address(family), NODE_PORT)
        egress(rig, "two")
        assert gets_no_answer(client, node.address(family), NODE_PORT)
        # From outside: masqueraded to the node's address or not, no node's call.
        assert gets_no_answer(site.other, node.address(family), NODE_PORT)
        assert connects(node, one.address(family), 8080)
    backend = told(rig, "a/client", destination=one.address(family))
    assert [(row.verdict, row.dialled, row.dialled_port) for row in backend] == [
        ("allow", node.address(family), NODE_PORT),
        ("deny", node.address(family), NODE_PORT),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_node_itself_behind_a_service(site: Site, family: int) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    site.proxy(service(family, rig.node))
    egress(rig)
    with listen(rig.node, family, 8080):
        assert connects(client, VIP[family], 80)
        # Another epoch, another connection by the same flow's rules.
        egress(rig, "one")
        assert connects(client, VIP[family], 80)
    rows = {(row.direction, row.verdict, row.reason) for row in told(rig, "a/client")}
    assert rows == {("egress", "allow", "node")}


@pytest.mark.parametrize("family", FAMILIES)
def test_revoking_cuts_an_open_connection_through_a_service(site: Site, family: int) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(service(family, one))
    egress(rig, "one")
    with listen(one, family, 8080) as listening, open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect((VIP[family], 80))
        there, _ = listening.accept()
        with there:
            there.send(b"1")
            assert here.recv(10) == b"1"
            egress(rig)
            # The server streams on: it is the client's egress that was revoked.
            here.settimeout(0.3)
            there.send(b"2")
            with pytest.raises(TimeoutError):
                here.recv(10)
            egress(rig, "one")
            here.settimeout(PATIENCE_S)
            assert here.recv(10) == b"2"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_udp_flow_that_changes_its_backend_is_judged_by_the_new_one(site: Site, family: int) -> None:
    rig = site.rig
    client, one, two = both(rig, "a/client", 1), both(rig, "a/one", 2), both(rig, "a/two", 3)
    egress(rig, "one", port=8053, protocol="UDP")
    with (
        open_socket(client, family, socket.SOCK_DGRAM) as here,
        open_socket(one, family, socket.SOCK_DGRAM) as first,
        open_socket(two, family, socket.SOCK_DGRAM) as second,
    ):
        first.bind((one.address(family), 8053))
        second.bind((two.address(family), 8053))
        second.settimeout(0.3)
        here.bind((client.address(family), 5353))
        for backend, allowed in ((one, True), (two, False), (one, True)):
            site.proxy(service(family, backend, 53, 8053, "udp"))
            site.forget_flows()
            here.sendto(b"?", (VIP[family], 53))
            if not allowed:
                with pytest.raises(TimeoutError):
                    second.recv(10)
                continue
            data, asker = first.recvfrom(10)
            first.sendto(data, asker)
            assert here.recv(10) == b"?"
    rows = [(row.verdict, row.destination) for row in told(rig, "a/client")]
    assert rows == [("allow", one.address(family)), ("deny", two.address(family))]


@pytest.mark.parametrize("family", FAMILIES)
def test_large_datagrams_through_a_service(site: Site, family: int) -> None:
    """Fragmented by the pod, put together for DNAT, taken apart again."""
    rig = site.rig
    client, one, two = both(rig, "a/client", 1), both(rig, "a/one", 2), both(rig, "a/two", 3)
    egress(rig, "one", port=8053, protocol="UDP")
    body = bytes(range(256)) * 230
    with (
        open_socket(client, family, socket.SOCK_DGRAM) as here,
        open_socket(one, family, socket.SOCK_DGRAM) as first,
        open_socket(two, family, socket.SOCK_DGRAM) as second,
    ):
        first.bind((one.address(family), 8053))
        second.bind((two.address(family), 8053))
        second.settimeout(0.3)
        site.proxy(service(family, one, 53, 8053, "udp"), service(family, two, 54, 8053, "udp"))
        here.sendto(body, (VIP[family], 53))
        assert first.recv(1 << 16) == body
        here.sendto(body, (VIP[family], 54))
        with pytest.raises(TimeoutError):
            second.recv(1 << 16)


@pytest.mark.parametrize("stamp", [1, 0xFFFE])
def test_a_forged_stamp_is_written_over(site: Site, stamp: int) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    # By the pod itself, which has NET_ADMIN: a filter's class is where clsact takes tc_index from.
    _forge(client, stamp)
    site.proxy(service(4, one))
    egress(rig)
    with listen(one, 4, 8080):
        assert gets_no_answer(client, VIP[4], 80)
        egress(rig, "one")
        assert connects(client, VIP[4], 80)


def _forge(pod: Space, stamp: int) -> None:
    run(pod, "tc", "qdisc", "add", "dev", "eth0", "clsact")
    run(pod, "tc", "filter", "add", "dev", "eth0", "egress", "protocol", "all", "u32", "match", "u32", "0", "0",
        "classid", f"1:{stamp:x}")  # fmt: skip


def test_neighbour_discovery_is_no_way_out(site: Site) -> None:
    """With a hop limit of 255 and a far destination it is routed, and judged where it leaves."""
    rig = site.rig
    client = both(rig, "a/client", 1)
    egress(rig)
    wire = Wire(client, rig.node, *(["br0"] if site.wiring == "bridged" else []))
    wire.send(ipv6(client.address(6), site.remote.address(6), 58, bytes([135, 0, 0, 0]) + bytes(36), hops=255))
    wire.close()
    assert [(row.verdict, row.destination) for row in told(rig, "a/client")] == [("deny", site.remote.address(6))]


def test_a_later_fragment_for_a_service_without_its_first_goes_nowhere(site: Site) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(service(4, one, 53, 8053, "udp"))
    egress(rig, "one", port=8053, protocol="UDP")
    wire = Wire(client, rig.node, *(["br0"] if site.wiring == "bridged" else []))
    wire.send(ipv4(client.address(4), VIP[4], 17, udp(53)[:8] + bytes(56), fragment=0x2000, number=9))
    wire.send(ipv4(client.address(4), VIP[4], 17, bytes(64), fragment=0x2005, number=77))
    wire.close()
    assert [row.reason for row in told(rig, "a/client")] == ["fragment"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masquerade", ["", "ct status dnat"])
def test_a_stamp_that_another_filter_changes_is_replaced_by_the_hash(site: Site, family: int, masquerade: str) -> None:
    rig, node = site.rig, site.rig.node
    client, one, two = both(rig, "a/client", 1), both(rig, "a/one", 2), both(rig, "a/two", 3)
    egress(rig, "one")
    run(node, "sh", "-c", f"tc qdisc add dev {client.link} clsact 2>/dev/null; true")
    run(node, "tc", "filter", "add", "dev", client.link, "ingress", "prio", "10", "protocol", "all",
        "u32", "match", "u32", "0", "0", "classid", "1:7")  # fmt: skip
    with listen(one, family, 8080), listen(two, family, 8080):
        site.proxy(service(family, one), masquerade=masquerade)
        assert connects(client, VIP[family], 80)
        site.proxy(service(family, two), masquerade=masquerade)
        assert gets_no_answer(client, VIP[family], 80)
    rows = [(row.verdict, row.destination) for row in told(rig, "a/client", direction="egress")]
    assert rows == [("allow", one.address(family)), ("deny", two.address(family))]


def _stamps(rig: Rig, pod: Space) -> dict[bytes, np.void]:
    """Return the slots of the UDP packets that a pod has sent, by key. Numbers of endpoints are not reused."""
    keys, origins = rig.maps["slots"].entries()
    own = (origins["endpoint"] == rig.installer.endpoints[pod.index]) & (origins["protocol"] == socket.IPPROTO_UDP)
    return {key.tobytes(): origin for key, origin in zip(keys[own], origins[own], strict=True)}


def _collect(rig: Rig, rows: list[Seen], destination: str) -> bool:
    """Add the denials of what was sent to an address; return whether there are any."""
    rows += of(rig.seen(), verdict="deny", destination=destination)
    return bool(rows)


@pytest.mark.parametrize("lost", [False, True], ids=["another's slot", "nothing is known"])
def test_held_fragments_get_nobody_elses_policy(site: Site, lost: bool) -> None:
    """A first fragment, then so many packets that its slot is another pod's, or so long that none fits; the last."""
    rig = site.rig
    client, free, one = both(rig, "a/client", 1), both(rig, "a/free", 3), both(rig, "a/one", 2)
    site.proxy(service(4, one, 53, 8053, "udp"), masquerade="ct status dnat")
    egress(rig)
    wire = Wire(client, rig.node, *(["br0"] if site.wiring == "bridged" else []))
    datagram = udp(53, data=bytes(56))
    # The node holds what other tests have left half sent for 30 s.
    number = secrets.randbelow(1 << 15) + 100
    wire.send(ipv4(client.address(4), VIP[4], 17, datagram[:32], fragment=0x2000, number=number))
    slots, by_hash = rig.maps["slots"], rig.maps["origins"]
    # On a busy machine the kernel may process the fragment after send has returned, even after the last one.
    until(lambda: bool(_stamps(rig, client)))
    for key, slot in _stamps(rig, client).items():
        taken = slot.copy()
        if lost:
            taken["time_ns"] = 1
        else:
            taken["hash"], taken["ifindex"] = int(slot["hash"]) ^ 1, free.index
            taken["endpoint"] = rig.installer.endpoints[free.index]
        slots.set(key, taken.tobytes())
    rig.drain()
    for key, origin in zip(*by_hash.entries(), strict=True):
        if lost:
            by_hash.drop(key.tobytes())
        elif origin["endpoint"] == rig.installer.endpoints[client.index]:
            # On a busy machine it may be older than STAMP_AGE by now. That is not what this case is about.
            renewed = origin.copy()
            renewed["time_ns"] = time.monotonic_ns()
            by_hash.set(key.tobytes(), renewed.tobytes())
    wire.send(ipv4(client.address(4), VIP[4], 17, datagram[32:], fragment=0x0004, number=number))
    wire.close()
    rows: list[Seen] = []
    until(lambda: _collect(rig, rows, one.address(4)))
    reasons = {row.reason for row in rows}
    # The last fragment has a slot of its own, but of the datagram that is put together the first one's counts.
    assert reasons == ({"no_origin"} if lost else {"default_deny"})


def test_bulk_goes_through_a_service_whole(site: Site) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(service(4, one))
    egress(rig, "one")
    size = 8 << 20
    with listen(one, 4, 8080) as listening, open_socket(client, 4, socket.SOCK_STREAM) as here:
        here.connect((VIP[4], 80))
        there, _ = listening.accept()
        with there:
            sender = threading.Thread(target=here.sendall, args=(bytes(size),))
            sender.start()
            got = 0
            while got < size:
                got += len(there.recv(1 << 20))
            sender.join()
    assert [row.verdict for row in told(rig, "a/client", direction="egress")] == ["allow"]


def test_devices_that_come_and_go_are_covered(rig: Rig) -> None:
    pod = both(rig, "a/client", 1)
    rig.apply()
    ip(rig.node, "link add late0 type veth peer name late1", "link add late2 type bridge", "link set late0 up")
    names = {device.name for device in rig.network.devices()}
    assert {"late0", "late1", pod.link} <= names
    assert not {"late2", "lo"} & names
    assert rig.attachments.attach_exits(rig.network.devices(), {pod.index}) == 2
    assert rig.attachments.attach_exits(rig.network.devices(), {pod.index}) == 0
    ip(rig.node, "link del late0", "link del late2")
    rig.attachments.attach_exits(rig.network.devices(), {pod.index})
    assert not list((rig.pins / "links").glob("*_exit_*"))
    # A pod's interface whose pod has gone is a device like others.
    rig.attachments.detach(pod.index)
    assert rig.attachments.attach_exits(rig.network.devices(), set()) == 1
    rig.attachments.attach(pod.index)
    assert rig.attachments.is_attached(pod.index)
    assert rig.attachments.attach_exits(rig.network.devices(), {pod.index}) == 0


def test_a_device_that_went_meanwhile_is_passed_over(rig: Rig) -> None:
    """Between the look at the node's links and the attaching of programs; one of a pod, and one of nobody."""
    pod = both(rig, "a/client", 1)
    rig.apply()
    ip(rig.node, "link add late0 type veth peer name late1")
    devices = rig.network.devices()
    late = next(device for device in devices if device.name == "late0")
    ip(rig.node, "link del late0")
    assert rig.attachments.attach(late.index) is False
    assert rig.attachments.attach_exits(devices, {pod.index}) == 0
    assert rig.attachments.attach(pod.index) is True
    assert not rig.attachments.is_attached(late.index)
