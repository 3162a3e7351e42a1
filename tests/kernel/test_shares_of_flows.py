"""Shares of fragments and denied flows: what one pod floods, no other pod misses. Both families, TCX and clsact."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from netns import Space, open_socket

from enrich.wire.batch import AGGREGATED
from probe.kernel.layout import Config, Counter
from tests.kernel.frames import Wire, ipv4, ipv6, udp
from tests.kernel.rig import FAMILIES, SIZES, Rig, Seen, both, of
from tests.kernel.test_shares import scan
from tests.waiting import until

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flood_of_fragments_takes_no_datagram_from_another_pod(rig: Rig, family: int) -> None:
    client, server, noisy = (both(rig, f"a/{name}", n) for n, name in enumerate(("client", "server", "noisy"), 1))
    rig.apply()
    wire, noise = Wire(client, rig.node), Wire(noisy, rig.node)
    for number in range(20):
        wire.send(_fragment(family, client, server, udp(1000, data=bytes(1600))[:800], 0, number))
    rig.drain()
    for number in range(20_000):
        noise.send(_fragment(family, noisy, server, udp(9, data=bytes(24)), 0, number))
    before = rig.maps.counters()[Counter.FRAGMENT_DROPPED]
    for number in range(20):
        wire.send(_fragment(family, client, server, bytes(808), 800, number))
    # Packets of one interface are judged in order: when this one has been, all have.
    wire.send((ipv6 if family == 6 else ipv4)(client.address(family), server.address(family), 17, udp(7777)))
    seen: list[Seen] = []

    def has_passed() -> bool:
        seen.extend(rig.seen())
        return any(row.port == 7777 and row.direction == "ingress" for row in seen)

    until(has_passed)
    wire.close()
    noise.close()
    rig.windows.rotate()
    seen += rig.seen()
    # None of the later ones has lost its first one, at either pod. What the receiver makes of them is not looked at:
    # its own buffer for reassembly is full.
    assert not of(seen, reason="fragment")
    assert rig.maps.counters()[Counter.FRAGMENT_DROPPED] == before


def _fragment(family: int, source: Space, to: Space, body: bytes, offset: int, number: int) -> bytes:
    more = not offset
    ends = source.address(family), to.address(family)
    if family == 4:
        return ipv4(*ends, 17, body, fragment=more << 13 | offset // 8, number=number & 0xFFFF)
    return ipv6(*ends, 44, struct.pack("!BBHI", 17, 0, offset | more, number) + body)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scan_leaves_the_denied_flows_of_others_their_addresses(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    scanner = both(rig, "b/scanner", 3)
    rig.policy("a/none", podSelector={"matchLabels": {"app": "server"}}, ingress=[])
    rig.apply()
    rig.maps.configure(Config.POD_DENIED_FLOWS, 50)
    scan(scanner, family, server.address(family), 500)
    scan(client, family, server.address(family), 50)
    rig.windows.rotate()
    denied = [row for row in rig.seen() if row.verdict == "deny"]
    assert len({row.port for row in denied if row.source == client.address(family)}) == 50
    assert sum(row.count for row in denied) == 550


def test_denied_flows_that_go_on_count_for_their_pods_limit(rig: Rig) -> None:
    scanner, server = both(rig, "b/scanner", 1), both(rig, "a/server", 2)
    rig.policy("a/none", podSelector={"matchLabels": {"app": "server"}}, ingress=[])
    rig.apply()
    rig.maps.configure(Config.POD_DENIED_FLOWS, 50)
    sent, rows = 0, []
    with open_socket(scanner, 4, socket.SOCK_DGRAM) as here:
        for window in range(5):
            # All ports of the windows before, so that their flows go on, and 50 more.
            for port in range(50 * (window + 1)):
                here.sendto(b"x", (server.address(4), 1000 + port))
                sent += 1
            keys, _ = rig.maps[f"deny_windows_{rig.maps.config(Config.DENY_WINDOW) & 1}"].entries()
            assert len(keys) <= 50
            rig.windows.rotate()
            rows.append(rig.drain())
    rig.maps.configure(Config.WINDOW_NS, 0)
    rig.windows.rotate()
    rows.append(rig.drain())
    verdicts = np.concatenate(rows)
    denied = verdicts[(verdicts["verdict"] & 0x7F) == 2]
    assert int(denied["count"].sum()) == sent
    assert (denied["flags"] & AGGREGATED).any()


def test_every_pod_has_windows_of_its_own_when_others_have_taken_all_that_are_lent(rig: Rig) -> None:
    server = both(rig, "a/server", 2)
    scanners = [both(rig, f"b/scanner{number}", number) for number in range(10, 14)]
    rig.policy("a/none", podSelector={"matchLabels": {"app": "server"}}, ingress=[])
    rig.apply()
    client = both(rig, "a/client", 1)
    rig.apply()
    for scanner in scanners:
        scan(scanner, 4, server.address(4), 1000)
    reserve = SIZES["DENIED_FLOWS"] // 2 // SIZES["ENDPOINTS"] // 2
    scan(client, 4, server.address(4), reserve)
    mine = [row for row in of(rig.seen(), verdict="deny") if row.source == client.address(4)]
    assert len(mine) == reserve
