"""A local pod's packets come in by its own interface: no other device brings in its address, or a stamp."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from netns import Space, connects, ip, listen, open_socket, run, sysctl

from enrich.wire.batch import INGRESS, UNNAMED, Reason, Verdict
from probe.kernel.layout import Config
from tests.kernel.frames import Wire, ipv4, ipv6, udp
from tests.kernel.rig import FAMILIES, Rig, both
from tests.kernel.site import Site
from tests.waiting import until

pytestmark = pytest.mark.kernel

TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}
FROM_FRIEND = [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]
FROM_ALL = [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]}]


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    # The kernel's own protection would hide what ours does.
    sysctl(rig.node, "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
    yield made
    rig.maps.configure(Config.LOCAL_SOURCE, 0)
    made.close()


def prepare(rig: Rig, ingress: list[dict[str, Any]]) -> tuple[Space, Space]:
    """Make a server that a policy isolates, and its friend."""
    server, friend = both(rig, "a/server", 2), both(rig, "a/friend", 3)
    rig.policy("a/in", **TO_SERVER, ingress=ingress)
    rig.apply()
    rig.drain()
    return server, friend


def datagram(source: str, destination: str, source_port: int = 4000) -> bytes:
    return (ipv6 if ":" in source else ipv4)(source, destination, 17, udp(514, source_port))


def uplink(site: Site) -> Wire:
    """Return the other node's end of the uplink."""
    return Wire(site.other, site.rig.node, "up0", "up0")


def wait_for(rig: Rig, wanted: Callable[[Any], bool]) -> list[Any]:
    """Return all verdicts up to the first that is wanted, in their order."""
    found: list[Any] = []

    def is_there() -> bool:
        found.extend(rig.drain())
        return any(wanted(one) for one in found)

    until(is_there)
    return found


def is_spoofed(verdict: Any) -> bool:
    return bool(verdict["reason"] == Reason.SPOOFED)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stamp", [0, 1, 0xFFFE])
def test_the_uplink_brings_in_no_local_pods_address(site: Site, family: int, stamp: int) -> None:
    rig = site.rig
    server, friend = prepare(rig, FROM_FRIEND)
    if stamp:
        forge(site.other, "up0", stamp)
    number = rig.installer.endpoints[server.index]
    for source in (friend, server):
        wire = uplink(site)
        wire.send(datagram(source.address(family), server.address(family)))
        wire.close()
        rows = wait_for(rig, is_spoofed)
        (row,) = [one for one in rows if one["destination_port"] == 514]
        assert (row["verdict"], row["endpoint"], row["flags"]) == (Verdict.DENY | INGRESS, number, UNNAMED)
    # The friend itself is who it says.
    with listen(server, family, 80):
        assert connects(friend, server.address(family), 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_forwarded_in_a_local_pods_name_goes_nowhere(site: Site, family: int) -> None:
    rig = site.rig
    _, friend = prepare(rig, FROM_FRIEND)
    outside = rig.net.pod(rig.node, "198.51.100.7", "2001:db8:9::7")
    rig.apply()
    with open_socket(outside, family, socket.SOCK_DGRAM) as there:
        there.bind((outside.address(family), 514))
        there.settimeout(0)
        wire = uplink(site)
        wire.send(datagram(friend.address(family), outside.address(family)))
        wire.close()
        (row,) = [one for one in wait_for(rig, is_spoofed) if one["destination_port"] == 514]
        assert (row["verdict"], row["endpoint"]) == (Verdict.DENY, 0)
        with pytest.raises(BlockingIOError):
            there.recv(10)
    rig.net.remove(outside)


def forge(space: Space, device: str, stamp: int) -> None:
    """Have all packets leave with a tc_index, which crosses the veth."""
    run(space, "tc", "qdisc", "add", "dev", device, "clsact")
    run(space, "tc", "filter", "add", "dev", device, "egress", "protocol", "all", "u32", "match", "u32", "0", "0",
        "classid", f"1:{stamp:x}")  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interface_that_is_not_bound_is_not_believed(site: Site, family: int) -> None:
    """A container beside Kubernetes, or a sandbox that was remade with the same address."""
    rig = site.rig
    server, friend = prepare(rig, FROM_FRIEND)
    stranger = rig.connect(rig.node, "10.244.0.99", "fd44::99")
    gateway = ["br0"] if site.wiring == "bridged" else []
    # With our program, then without: it has just appeared.
    forge(stranger, "eth0", 0xFFFE)
    for attached in (False, True):
        if attached:
            rig.apply()
        wire = Wire(stranger, rig.node, *gateway)
        wire.send(datagram(friend.address(family), server.address(family), 4000 + attached))
        wire.close()
        rows = wait_for(rig, is_spoofed)
        assert not [one for one in rows if one["destination_port"] == 514 and one["verdict"] & 0x7F != Verdict.DENY]
    rig.net.remove(stranger)


@pytest.mark.parametrize("family", FAMILIES)
def test_unnamed_it_is_judged_as_from_nobody(site: Site, family: int) -> None:
    """For networks that send a pod's packets back to its own node."""
    rig = site.rig
    server, friend = prepare(rig, FROM_FRIEND)
    rig.maps.configure(Config.LOCAL_SOURCE, 1)
    wire = uplink(site)

    def answer(port: int) -> Any:
        wire.send(datagram(friend.address(family), server.address(family), port))
        rows = wait_for(rig, lambda one: one["source_port"] == port)
        (row,) = [one for one in rows if one["source_port"] == port]
        assert row["flags"] == UNNAMED
        return row["verdict"], row["reason"]

    # A rule that names the friend does not mean this packet, a rule about all addresses does.
    assert answer(4001) == (Verdict.DENY | INGRESS, Reason.DEFAULT_DENY)
    rig.policy("a/in", **TO_SERVER, ingress=FROM_ALL)
    rig.apply()
    assert answer(4002) == (Verdict.ALLOW | INGRESS, Reason.POLICY)
    rig.policy("a/in", **TO_SERVER, ingress=FROM_FRIEND)
    rig.apply()
    assert answer(4002) == (Verdict.DENY | INGRESS, Reason.DEFAULT_DENY)
    wire.close()
    with listen(server, family, 80):
        assert connects(friend, server.address(family), 80)
    assert {int(one["flags"]) for one in rig.drain() if one["verdict"] & 0x7F == Verdict.ALLOW} == {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_strangers_packet_passes_as_policy_says(site: Site, family: int) -> None:
    rig = site.rig
    server, _ = prepare(rig, FROM_ALL)
    with listen(server, family, 80):
        assert connects(site.remote, server.address(family), 80)


def test_a_tagged_frame_is_read_as_well(rig: Rig) -> None:
    """The uplink is a port of the bridge, which hands on frames with VLAN tags."""
    site = Site(rig, "bridged")
    ip(rig.node, "link set up0 master br0")
    server, friend = prepare(rig, FROM_FRIEND)
    wire = Wire(site.other, server, "eth0", "up0")
    wire.send(datagram(friend.address(4), server.address(4)), tags=b"\x81\x00\x00\x07")
    wire.close()
    rows = wait_for(rig, is_spoofed)
    assert not [one for one in rows if one["verdict"] & 0x7F == Verdict.ALLOW]
    site.close()
