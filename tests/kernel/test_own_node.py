"""A pod's own node is the machine: every address that it holds, in both directions, and no other address."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from netns import MOMENT_S, connects, gets_no_answer, ip, listen, open_socket, run_in

from enrich.index.cluster import Cluster, group_by_kind
from enrich.model import Node, Object, Service
from tests.kernel.frames import Wire, ipv4, ipv6, tcp
from tests.kernel.rig import FAMILIES, NODE, NODE_IPS, Rig, both, of
from tests.kernel.site import Site, Wiring
from tests.kernel.test_agent import start
from tests.waiting import until

pytestmark = pytest.mark.kernel

# NodeLocal DNS on a device of its own, and a second network card's address.
HELD = {4: ("169.254.20.10", "203.0.113.77"), 6: ("fd00:53::10", "2001:db8:77::1")}
CLOSED = {"policyTypes": ["Ingress", "Egress"]}


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    ip(rig.node, "link add local0 type veth peer name card1", "link set local0 up", "link set card1 up",
       "addr add 169.254.20.10/32 dev local0", "addr add fd00:53::10/128 dev local0 nodad",
       "addr add 203.0.113.77/24 dev card1", "addr add 2001:db8:77::1/64 dev card1 nodad")  # fmt: skip
    yield made
    ip(rig.node, "link del local0")
    made.close()


def gateway(wiring: Wiring, family: int) -> tuple[str, ...]:
    """Return the address that the node has towards its pods, if it is one for all."""
    return ({4: "10.244.0.254", 6: "fd44::fe"}[family],) if wiring == "bridged" else ()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_pod_reaches_every_address_that_its_node_holds(site: Site, family: int) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    rig.policy("a/closed", **CLOSED)
    rig.apply()
    held = (*HELD[family], *gateway(site.wiring, family), rig.node.address(family))
    with listen(rig.node, family, 8053):
        for address in held:
            assert connects(client, address, 8053), address
        # The other node is not this pod's own.
        with listen(site.other, family, 8053):
            assert gets_no_answer(client, site.other.address(family), 8053)
    rows = {(row.verdict, row.reason, row.destination) for row in of(rig.seen(), direction="egress", port=8053)}
    assert rows == {("allow", "node", address) for address in held} | {
        ("deny", "default_deny", site.other.address(family))
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_pod_is_reached_from_every_address_of_its_node_but_not_by_their_names(site: Site, family: int) -> None:
    """What the node sends is the node's. The same source address from the network is a stranger's."""
    rig = site.rig
    server = both(rig, "a/server", 1)
    rig.policy("a/closed", **CLOSED)
    rig.apply()
    with listen(server, family, 80):
        for address in HELD[family]:
            with open_socket(rig.node, family, socket.SOCK_STREAM) as caller:
                caller.bind((address, 0))
                caller.connect((server.address(family), 80))
        ip(site.other, *(f"addr add {a}/{'128 dev lo nodad' if family == 6 else '32 dev lo'}" for a in HELD[family]))
        for address in HELD[family]:
            with open_socket(site.other, family, socket.SOCK_DGRAM) as stranger:
                if family == 6:
                    stranger.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 9)
                stranger.bind((address, 5353))
                stranger.sendto(b"?", (server.address(family), 53))
    rows = {(row.verdict, row.reason, row.source) for row in of(rig.seen(), subject="a/server", direction="ingress")}
    assert {row for row in rows if row[2] in HELD[family] and row[0] == "allow"} == {
        ("allow", "node", address) for address in HELD[family]
    }
    assert not {row for row in rows if row[0] == "allow" and row[2] not in HELD[family]}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pods_address_on_the_node_is_the_pods(site: Site, family: int) -> None:
    """As kube-proxy in IPVS mode puts an external IP on the node, which a tenant has chosen."""
    rig = site.rig
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.elsewhere("a/far", *site.remote.addresses)
    rig.policy("a/closed", **CLOSED)
    bits = "128 dev local0 nodad" if family == 6 else "32 dev local0"
    taken = (server.address(family), site.remote.address(family))
    ip(rig.node, *(f"addr add {address}/{bits}" for address in taken))
    rig.apply()
    with listen(rig.node, family, 8053):
        for address in taken:
            assert gets_no_answer(client, address, 8053)
    assert {(row.verdict, row.reason) for row in of(rig.seen(), subject="a/client", direction="egress", port=8053)} == {
        ("deny", "default_deny")
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_services_address_on_the_node_is_judged_behind_it(site: Site, family: int) -> None:
    """NodeLocal DNS answers at the address of the Service, too: the node itself is behind it."""
    rig = site.rig
    client = both(rig, "a/client", 1)
    vip = {4: "10.96.0.53", 6: "fd96::53"}[family]
    rig.services.append(vip)
    ip(rig.node, f"addr add {vip}/{'128' if family == 6 else '32'} dev local0{' nodad' if family == 6 else ''}")
    rig.policy("a/closed", **CLOSED)
    rig.apply()
    with listen(rig.node, family, 53):
        assert connects(client, vip, 53)
    assert {(row.verdict, row.reason, row.destination) for row in of(rig.seen(), direction="egress", port=53)} == {
        ("allow", "node", vip)
    }


@pytest.fixture
def uplink(rig: Rig) -> Iterator[Site]:
    """Make a bridge that the uplink is a port of."""
    made = Site(rig, "bridged")
    ip(rig.node, "link set up0 master br0")
    yield made
    made.close()


@pytest.mark.parametrize("flags", [2, 16], ids=["SYN", "ACK"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_the_node_is_not_for_the_node(uplink: Site, family: int, flags: int) -> None:
    """On a bridge with an uplink the pod chooses, by the link-layer address, which machine gets the frame."""
    rig, other = uplink.rig, uplink.other
    client = both(rig, "a/client", 1)
    rig.policy("a/closed", **CLOSED)
    rig.apply()
    held = gateway("bridged", family)[0]
    make = ipv6 if family == 6 else ipv4
    packet = make(client.address(family), held, 6, tcp(80, flags, source_port=4001))
    listening = run_in(other, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    listening.bind(("up0", 0))
    listening.settimeout(0)
    # The same connection, to the node and then to the other machine.
    for wire in (Wire(client, rig.node, "br0"), Wire(client, other, "up0")):
        wire.send(packet)
        wire.close()
    rows: list[tuple[str, str, str]] = []

    def is_denied() -> bool:
        rows.extend((row.verdict, row.reason, row.destination) for row in of(rig.seen(), subject="a/client", port=80))
        return len(rows) > 1

    with listening:
        until(is_denied)
        with contextlib.suppress(BlockingIOError):
            while True:
                assert packet not in listening.recv(2048)
    assert rows == [("allow", "node", held), ("deny", "default_deny", held)]


def test_addresses_of_the_node_come_and_go(rig: Rig, tmp_path: Path) -> None:
    client = both(rig, "a/client", 1)
    rig.policy("a/closed", **CLOSED)
    objects: list[Object] = [*rig.objects.values(), *rig.namespaces.values(), *rig.policies.values()]
    cluster = Cluster()
    # A Service may have an address of the node as external IP; what the API lists as the node's stays the node's.
    service = Service("a", "mine", "u", NODE_IPS)
    cluster.replace_all(group_by_kind([*objects, Node(NODE, "n1-uid", {}, NODE_IPS), service]))
    agent = start(rig, cluster, tmp_path)
    agent.start(5.0)
    try:
        with listen(rig.node, 4, 8053), listen(rig.node, 6, 8053):
            assert connects(client, NODE_IPS[0], 8053)
            for address, bits in (("169.254.20.10", 32), ("fd00:53::10", 128)):
                assert gets_no_answer(client, address, 8053)
                ip(rig.node, f"addr add {address}/{bits} dev lo")
                until(partial(connects, client, address, 8053, MOMENT_S))
                ip(rig.node, f"addr del {address}/{bits} dev lo")
                ip(rig.node, f"route add local {address}/{bits} dev lo")
                until(partial(gets_no_answer, client, address, 8053))
                ip(rig.node, f"route del local {address}/{bits} dev lo")
    finally:
        agent.stop()
