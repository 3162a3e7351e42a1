"""A pod does not use its node as a relay by a route inside the packet, which the node would follow.

IPv4 has the options of RFC 791 section 3.1, IPv6 the segment routing header (RFC 8754). Both name further destinations
behind the one in the header: here the pod's own node, which every pod may reach. A node follows them if its sysctls say
so. Hooks that judged the first destination alone would let a closed pod reach anybody.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from netns import Space, open_socket, sysctl

from tests.kernel.ear import Ear, new_mark
from tests.kernel.frames import Wire, ipv4, ipv6, udp
from tests.kernel.rig import FAMILIES, NODE_IPS, Rig, both, of
from tests.kernel.site import Site, Wiring

pytestmark = pytest.mark.kernel

WORLD = ("198.51.100.7", "2001:db8:7::7")
LOOSE, STRICT = 131, 137
"""Options of RFC 791: loose and strict source route."""


def through_node(family: int, source: str, target: str, mark: bytes, option: int = LOOSE) -> bytes:
    """Return a datagram to the own node whose route goes on to ``target``."""
    body = udp(53, data=mark)
    if family == 4:
        # Type, length, pointer to the next address, the addresses, padding to a multiple of four.
        route = bytes([option, 7, 4]) + ipaddress.IPv4Address(target).packed + b"\0"
        return ipv4(source, NODE_IPS[0], 17, body, options=route)
    # Next header, length, type 4, segments left, last entry, flags, tag, then the segments in reverse.
    segments = ipaddress.IPv6Address(target).packed + ipaddress.IPv6Address(NODE_IPS[1]).packed
    return ipv6(source, NODE_IPS[1], 43, bytes([17, len(segments) // 8, 4, 1, 1, 0, 0, 0]) + segments + body)


@dataclass
class Relay:
    """A node that follows routes in packets, a pod that may send nothing, one that nobody may reach, and the world."""

    site: Site
    rig: Rig = field(init=False)
    client: Space = field(init=False)
    server: Space = field(init=False)
    world: Space = field(init=False)

    def __post_init__(self) -> None:
        self.rig, node = self.site.rig, self.site.rig.node
        self.client, self.server = both(self.rig, "a/client", 1), both(self.rig, "a/server", 2)
        self.world = self.rig.net.pod(node, *WORLD)
        self.device = "br0" if self.site.wiring == "bridged" else self.client.link
        for name in {"all", self.device, self.client.link}:
            sysctl(node, f"net.ipv4.conf.{name}.accept_source_route=1", f"net.ipv6.conf.{name}.seg6_enabled=1")
        self.policies(client_may_send=False, server_is_open=False)

    def policies(self, *, client_may_send: bool, server_is_open: bool) -> None:
        for name, direction, is_open in (("client", "egress", client_may_send), ("server", "ingress", server_is_open)):
            self.rig.policy(f"a/{name}", podSelector={"matchLabels": {"app": name}},
                            policyTypes=[direction.capitalize()], **{direction: [{}] * is_open})  # fmt: skip
        self.rig.apply()
        self.rig.drain()

    def reaches(self, family: int, space: Space, option: int = LOOSE) -> bool:
        """Whether a datagram that the client sends by way of its node arrives. The node's own follows it."""
        target, mark, end = space.address(family), new_mark(), new_mark()
        with (
            contextlib.closing(Ear(space)) as ear,
            contextlib.closing(Wire(self.client, self.rig.node, self.device)) as wire,
            open_socket(self.rig.node, family, socket.SOCK_DGRAM) as node,
        ):
            wire.send(through_node(family, self.client.address(family), target, mark, option))
            node.sendto(end, (target, 9))
            return bool(ear.heard([mark], end))

    def close(self) -> None:
        for name in ("net.ipv4.conf.all.accept_source_route", "net.ipv6.conf.all.seg6_enabled"):
            sysctl(self.rig.node, f"{name}=0")
        self.rig.net.remove(self.world)
        self.site.close()


@pytest.fixture(params=["routed", "bridged"])
def relay(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Relay]:
    wiring: Wiring = request.param
    made = Relay(Site(rig, wiring))
    yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_pod_reaches_nobody_by_way_of_its_node(relay: Relay, family: int) -> None:
    for option in (LOOSE, STRICT):
        assert not relay.reaches(family, relay.world, option)
        assert not relay.reaches(family, relay.server, option)
    rows = of(relay.rig.seen(), subject="a/client", direction="egress", verdict="deny")
    assert {row.destination for row in rows} >= {relay.world.address(family), relay.server.address(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_server_is_reached_by_nobody_by_way_of_the_node(relay: Relay, family: int) -> None:
    relay.policies(client_may_send=True, server_is_open=False)
    assert not relay.reaches(family, relay.server)
    assert of(relay.rig.seen(), subject="a/server", direction="ingress", verdict="deny")


@pytest.mark.parametrize("family", FAMILIES)
def test_such_a_packet_arrives_where_policy_allows_it(relay: Relay, family: int) -> None:
    """The node does follow the route: without policy's no, the packet arrives."""
    relay.policies(client_may_send=True, server_is_open=True)
    assert relay.reaches(family, relay.world)
    assert relay.reaches(family, relay.server)
