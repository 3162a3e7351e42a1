"""Attacks by single frames: wrong lengths, neighbour discovery with a load, sources that are others'."""

from __future__ import annotations

import itertools
import secrets
import struct
from collections.abc import Iterator

from tests.attack.ground import Ground, Shot, any_number, datagram, fragment, packet
from tests.attack.tally import Tally, attack
from tests.kernel.ear import new_mark
from tests.kernel.frames import extension, ipv4, ipv6, tcp, udp
from tests.kernel.rig import FAMILIES, both

_SYN, _ACK = 2, 16
_BEHIND = tcp(80, _ACK)[8:] + bytes(40)
"""Bytes behind the end that the IP header states; read on, they claim ACK."""
_ARP = 0x0806


@attack("TCP headers that continue behind the packet's end, or in the next fragment")
def lengths(ground: Ground) -> Iterator[Tally]:
    """A SYN that a later fragment completes, and headers cut short: the receiver sees another packet than policy."""
    rig = ground.rig
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/none", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"],
               egress=[{"ports": [{"port": 53, "protocol": "UDP"}]}])  # fmt: skip
    rig.apply()
    wire, ear = ground.wire(client), ground.ear(server)
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        ends = client.address(family), server.address(family)
        shots = []
        for length in (8, 16):
            header, number, mark = tcp(80, _SYN, sequence=secrets.randbits(32)), any_number(), new_mark()
            first = fragment(family, ends, 6, header[:length], 0, number, more=True) + _BEHIND
            rest = fragment(family, ends, 6, header[length:] + mark, length, number, more=False)
            shots.append(Shot([first, rest], mark))
        for length in (8, 12, 19):
            header = tcp(80, _ACK, sequence=secrets.randbits(32))
            shots.append(Shot([packet(family, *ends, 6, header[:length]) + header[length:] + bytes(20)], header[:8]))
        data, number, mark = udp(53, data=bytes(56)), any_number(), new_mark()
        overlapping = fragment(family, ends, 17, mark + bytes(40), 8, number, more=False)
        shots.append(Shot([fragment(family, ends, 17, data[:32], 0, number, more=True), overlapping], mark))
        number, mark = any_number(), new_mark()
        whole = Shot([fragment(family, ends, 17, data[:32], 0, number, more=True),
                      fragment(family, ends, 17, mark, 32, number, more=False)], mark)  # fmt: skip
        yield ground.volley(wire, ear, shots, [whole, datagram(family, *ends, 53)])


@attack("ARP and neighbour discovery that carry data, or speak for others")
def neighbours(ground: Ground) -> Iterator[Tally]:
    """Between two pods of a bridge, from one to the other's own MAC."""
    rig = ground.rig
    ground.site("bridged")
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    wire, ear = ground.wire(client, server), ground.ear(server)
    for _ in range(ground.rounds):
        own, others = ("10.244.0.1", "fd44::1"), ("10.244.0.2", "10.244.0.254", "fd44::2", "fd44::fe")
        bad = [_arp(own[0], load=1200), _discovery(own[1], load=1200)]
        bad += [_discovery(one) if ":" in one else _arp(one) for one in others]
        yield ground.volley(wire, ear, bad, [_arp(own[0]), _discovery(own[1])])


def _arp(sender: str, load: int = 0) -> Shot:
    """Return a reply (RFC 826) that says where ``sender`` is; the MAC address in it is the mark."""
    mac, address = secrets.token_bytes(6), bytes(int(part) for part in sender.split("."))
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    return Shot([head + mac + address + bytes(6) + bytes([10, 244, 0, 2]) + bytes(load)], mac + address, _ARP)


def _discovery(target: str, load: int = 0) -> Shot:
    """Return an advertisement (RFC 4861 section 4.4); the link-layer address in it is the mark."""
    option = b"\x02\x01" + secrets.token_bytes(6)
    inside = ipv6(target, target, 59, b"")[8:24]
    body = bytes([136, 0, 0, 0]) + bytes(4) + inside + option + bytes(load)
    return Shot([ipv6("fd44::1", "ff02::1", 58, body, hops=255)], option)


@attack("a source that is not the sender's")
def spoofed(ground: Ground) -> Iterator[Tally]:
    """To a pod and to the world, from a pod that may send everything."""
    rig = ground.rig
    client, server, world = both(rig, "a/client", 1), both(rig, "a/server", 2), ground.world()
    both(rig, "a/other", 3)
    rig.apply()
    wire = ground.wire(client)
    false = {4: ("10.244.0.3", "192.0.2.1", "169.254.1.1", "203.0.113.9", "10.244.0.2"),
             6: ("fd44::3", "2001:db8:1::1", "fe80::7", "2001:db8:f::9", "fd44::2")}  # fmt: skip
    for _, family, target in itertools.product(range(ground.rounds), FAMILIES, (server, world)):
        to = target.address(family)
        shots = []
        for source in false[family]:
            if source == to:
                continue
            shots.append(datagram(family, source, to, 53))
            for flags in (_SYN, _ACK):
                header = tcp(80, flags, sequence=secrets.randbits(32))
                shots.append(Shot([packet(family, source, to, 6, header)], header[:8]))
            mark = new_mark()
            tricky = (ipv4(source, to, 17, udp(53, data=mark), options=b"\x01" * 8) if family == 4
                      else ipv6(source, to, 60, extension(17) + udp(53, data=mark)))  # fmt: skip
            shots.append(Shot([tricky], mark))
        yield ground.volley(wire, ground.ear(target), shots, [datagram(family, client.address(family), to, 53)])
