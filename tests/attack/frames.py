"""Attacks by single frames: wrong lengths, neighbour discovery with a load, sources and networks that are others'."""

from __future__ import annotations

import itertools
import secrets
import struct
from collections.abc import Iterator

from tests.attack.ground import Ground, Shot, any_number, datagram, fragment, packet
from tests.attack.tally import Tally, attack
from tests.kernel.ear import new_mark
from tests.kernel.frames import extension, ipv4, ipv6, mac_of, tcp, udp
from tests.kernel.rig import FAMILIES, both

_SYN, _ACK = 2, 16
_BEHIND = tcp(80, _ACK)[8:] + bytes(40)
"""Bytes behind the end that the IP header states; read on, they claim ACK."""
_ARP = 0x0806
_TAGS = tuple(struct.pack("!HH", kind, network) for kind in (0x8100, 0x88A8) for network in (0, 1, 7))
_NOBODY = {4: ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"), 6: ("::", "::1", "ff02::1")}  # noqa: S104 - sent from
_NO_IP = (46, 0x88CC, 0x8863, 0x8864, 0x8847, 0x8035, 0x88B5)
"""LLC (a length; STP is of this kind), LLDP, PPPoE, MPLS, RARP, and one for experiments."""


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
        own, others = ("10.244.0.1", "fd44::1"), ("10.244.0.2", "10.244.0.254", "fd44::2", "fd44::fe", "fe80::1")
        bad = [_arp(own[0], load=1200), _discovery(own[1], load=1200)]
        bad += [_discovery(one) if ":" in one else _arp(one) for one in others]
        yield ground.volley(wire, ear, bad, [_arp(own[0]), _discovery(own[1])])


@attack("frames from another pod's link-layer address, with VLAN tags, or of protocols that bridges speak")
def stolen(ground: Ground) -> Iterator[Tally]:
    """Between pods of a bridge, whose addresses it learns from frames. The victim gets all that is sent to it."""
    rig = ground.rig
    ground.site("bridged")
    thief, other, victim = both(rig, "a/thief", 1), both(rig, "a/other", 2), both(rig, "a/victim", 3)
    rig.apply()
    wire, ear = ground.wire(thief, other), ground.ear(other)
    own, foreign = wire.own, (mac_of(victim), b"\2" + secrets.token_bytes(5))
    for _ in range(ground.rounds):
        bad, good = [], [_arp("10.244.0.1"), _discovery("fd44::1")]
        for family in FAMILIES:
            ends = thief.address(family), other.address(family)
            good.append(datagram(family, *ends, 53))
            for source, tags in ((foreign[0], b""), (foreign[1], b""), *((own, tag) for tag in _TAGS)):
                for shot in (datagram(family, *ends, 53), _discovery("fd44::1") if family == 6 else _arp("10.244.0.1")):
                    wire.own = source
                    wire.send(shot.packets[0], shot.kind, tags)
                    bad.append(shot.mark)
        for source, kind in itertools.product((own, foreign[0]), _NO_IP):
            wire.own, mark = source, new_mark()
            wire.send(mark + bytes(46 - len(mark)), kind)
            bad.append(mark)
        wire.own = own
        for shot in good:
            wire.send(shot.packets[0], shot.kind)
        through, arrived = ground.arrived(ear, bad, [shot.mark for shot in good])
        yield Tally(len(bad), through, len(good), len(good) - arrived)
        to_victim = [datagram(family, other.address(family), victim.address(family), 53) for family in FAMILIES]
        yield ground.volley(ground.wire(other, victim), ground.ear(victim), [], to_victim)


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
    """To a pod and to the world, from a pod that may send everything. Some sources are nobody's: no address yet, as in
    DHCP, loopback, a group, a broadcast."""
    rig = ground.rig
    client, server, world = both(rig, "a/client", 1), both(rig, "a/server", 2), ground.world()
    both(rig, "a/other", 3)
    rig.apply()
    wire = ground.wire(client)
    false = {4: ("10.244.0.3", "192.0.2.1", "169.254.1.1", "203.0.113.9", "10.244.0.2", *_NOBODY[4]),
             6: ("fd44::3", "2001:db8:1::1", "fe80::7", "2001:db8:f::9", "fd44::2", *_NOBODY[6])}  # fmt: skip
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
