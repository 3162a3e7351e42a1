"""What the tests of ICMP errors share: a closed pod, the world that it may call, and a router that reports errors."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

from netns import Space, open_socket

from probe.kernel.layout import Config
from tests.kernel.ear import Ear, new_mark
from tests.kernel.frames import Wire, icmp, ipv4, ipv6, udp
from tests.kernel.rig import Rig, both

WORLD, ROUTER = ("198.51.100.7", "2001:db8:7::7"), ("203.0.113.1", "2001:db8:9::1")
UNREACHABLE, TOO_BIG = {4: (3, 3), 6: (1, 4)}, {4: (3, 4), 6: (2, 0)}


def packet(family: int, source: str, destination: str, protocol: int, body: bytes) -> bytes:
    return (ipv6 if family == 6 else ipv4)(source, destination, protocol, body)


@dataclass
class Site:
    """A closed pod that may call the world on two ports, the world, and a router that no pod may call."""

    rig: Rig
    client: Space = field(init=False)
    world: Space = field(init=False)
    router: Space = field(init=False)

    def __post_init__(self) -> None:
        self.client = both(self.rig, "a/client", 1)
        both(self.rig, "a/other", 2)
        self.world, self.router = (self.rig.net.pod(self.rig.node, *ends) for ends in (WORLD, ROUTER))
        self.allow()
        self.ear, self.wire = Ear(self.client), Wire(self.router, self.rig.node)

    def allow(self, *ports: int) -> None:
        """Let the client call these ports of the world, and be called on UDP 5000 by the world."""
        to = [{"ipBlock": {"cidr": "198.51.100.0/24"}}, {"ipBlock": {"cidr": "2001:db8:7::/64"}}]
        open_ports = [{"port": port, "protocol": name} for port in ports for name in ("UDP", "TCP")]
        self.rig.policy("a/client", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress", "Egress"],
                        egress=[{"to": to, "ports": open_ports}] if ports else [])  # fmt: skip
        self.rig.apply()

    def change(self) -> None:
        """Change the policy of another pod, which makes every stored verdict stale."""
        before = self.rig.maps.config(Config.EPOCH)
        name = f"a/other-{len(self.rig.policies)}"
        self.rig.policy(name, podSelector={"matchLabels": {"app": "other"}}, ingress=[{"ports": [{"port": 1}]}])
        self.rig.apply()
        assert self.rig.maps.config(Config.EPOCH) > before

    def error(self, family: int, quoted: bytes, kind: tuple[int, int] | None = None) -> bytes:
        """Send an error of the router's. Return its mark."""
        mark, kind = new_mark(), kind or UNREACHABLE[family]
        source = ROUTER[family == 6]
        self.wire.send(packet(family, source, self.client.address(family), 58 if family == 6 else 1,
                              icmp(*kind, struct.pack("!HH", 0, 1400), quoted + mark)))  # fmt: skip
        return mark

    def hears(self, family: int, quoted: list[bytes], good: bytes, **how: tuple[int, int]) -> list[bool]:
        """Send an error about each quoted packet; return which arrive. One about ``good`` must."""
        marks = [self.error(family, one, **how) for one in quoted]
        heard = self.ear.heard(marks, self.error(family, good))
        return [mark in heard for mark in marks]

    def close(self) -> None:
        self.ear.close()
        self.wire.close()
        self.rig.net.remove(self.world)
        self.rig.net.remove(self.router)


def call(site: Site, family: int, port: int = 53, own: int = 4000) -> bytes:
    """Send a datagram to the world. Return the packet that an error about it quotes."""
    with open_socket(site.client, family, socket.SOCK_DGRAM) as here:
        here.bind((site.client.address(family), own))
        here.sendto(b"x", (WORLD[family == 6], port))
    return quote(site, family, udp(port, own))


def quote(site: Site, family: int, body: bytes, protocol: int = 17) -> bytes:
    return packet(family, site.client.address(family), WORLD[family == 6], protocol, body)
