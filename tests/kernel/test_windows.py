"""Denied once at once, then a count a window; every packet is counted, and a flood is counted without addresses."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from netns import open_socket

from enrich.wire.batch import AGGREGATED
from probe.kernel.layout import Config, Counter
from tests.kernel.rig import FAMILIES, WINDOW_NS, Rig, both, of

pytestmark = pytest.mark.kernel


def _send(rig: Rig, family: int, packets: int, *, ports: int = 1) -> None:
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    with open_socket(client, family, socket.SOCK_DGRAM) as here:
        for number in range(packets):
            here.sendto(b"x", (server.address(family), 1000 + number % ports))


def _closed(rig: Rig) -> None:
    both(rig, "a/client", 1)
    both(rig, "a/server", 2)
    rig.policy("a/none", podSelector={"matchLabels": {"app": "server"}}, ingress=[])
    rig.apply()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_at_once_and_the_rest_when_the_window_ends(rig: Rig, family: int) -> None:
    _closed(rig)
    _send(rig, family, 20)
    (first,) = of(rig.seen(), verdict="deny")
    assert first.count == 1
    assert rig.windows.rotate() == 1
    (rest,) = rig.seen()
    assert (rest.count, rest.verdict, rest.source, rest.policies) == (19, "deny", first.source, ("a/none",))


def test_a_flow_that_goes_on_is_told_once_a_window_and_no_packet_twice(rig: Rig) -> None:
    _closed(rig)
    told = []
    for _window in range(4):
        _send(rig, 4, 7)
        rig.windows.rotate()
        told.append([row.count for row in of(rig.seen(), verdict="deny")])
    # Another flow each time (another source port): each is told at once and once more.
    assert told == [[1, 6]] * 4


def test_one_flow_over_several_windows_is_first_only_once(rig: Rig) -> None:
    _closed(rig)
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    counts = []
    with open_socket(client, 4, socket.SOCK_DGRAM) as here:
        for _window in range(3):
            for _ in range(5):
                here.sendto(b"x", (server.address(4), 1000))
            rig.windows.rotate()
            counts.append([row.count for row in of(rig.seen(), verdict="deny")])
    assert counts == [[1, 4], [5], [5]]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_source_ports_a_client_that_tries_again_is_one_flow(rig: Rig, family: int) -> None:
    _closed(rig)
    rig.maps.configure(Config.ANY_SOURCE_PORT, 1)
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    counts, ports, used = [], set(), []
    try:
        for _window in range(3):
            for _ in range(4):
                with open_socket(client, family, socket.SOCK_DGRAM) as here:
                    here.sendto(b"x", (server.address(family), 1000))
                    used.append(here.getsockname()[1])
            _send(rig, family, 1, ports=1)
            rig.windows.rotate()
            rows = rig.drain()
            denied = rows[(rows["verdict"] & 0x7F) == 2]
            counts.append(denied["count"].tolist())
            ports |= set(denied["source_port"].tolist())
    finally:
        rig.maps.configure(Config.ANY_SOURCE_PORT, 0)
    assert counts == [[1, 4], [5], [5]]
    assert ports == {used[0]}


def test_a_flow_that_was_silent_for_a_window_is_first_again(rig: Rig) -> None:
    _closed(rig)
    rig.maps.configure(Config.WINDOW_NS, 1)
    try:
        client, server = rig.pods["a/client"], rig.pods["a/server"]
        counts = []
        with open_socket(client, 4, socket.SOCK_DGRAM) as here:
            for _window in range(3):
                here.sendto(b"x", (server.address(4), 1000))
                rig.windows.rotate()
                counts.append([row.count for row in of(rig.seen(), verdict="deny")])
        assert counts == [[1], [1], [1]]
    finally:
        rig.maps.configure(Config.WINDOW_NS, WINDOW_NS)


def test_a_flood_is_counted_exactly_past_its_budget(rig: Rig) -> None:
    _closed(rig)
    rig.maps.configure(Config.POD_DENIED_FLOWS, 10)
    _send(rig, 4, 500, ports=500)
    rig.windows.rotate()
    rows = rig.drain()
    denied = rows[(rows["verdict"] & 0x7F) == 2]
    aggregated = denied[(denied["flags"] & AGGREGATED) != 0]
    assert int(denied["count"].sum()) == 500
    assert len(denied) - len(aggregated) == 10
    assert len(aggregated) == 1
    assert not aggregated["source"].any()
    assert not aggregated["destination"].any()


def test_a_full_ring_loses_no_denied_packet_and_counts_each_allow(rig: Rig) -> None:
    _closed(rig)
    before = rig.maps.counters()
    capacity = rig.ring.capacity
    rig.maps.configure(Config.POD_DENIED_FLOWS, 100_000)
    # Each datagram is an allow at the client and a deny at the server: the ring holds less than that.
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    packets = capacity
    with open_socket(client, 4, socket.SOCK_DGRAM) as here, open_socket(client, 4, socket.SOCK_DGRAM) as there:
        for number in range(packets):
            (here if number < 60_000 else there).sendto(b"x", (server.address(4), 2000 + number % 60_000))
    rows = rig.drain()
    assert len(rows) == capacity
    # Windows of any age are over: otherwise each goes on as an empty one, because its flow may be active.
    rig.maps.configure(Config.WINDOW_NS, 0)
    while rig.windows.rotate():
        more = rig.drain()
        rows = np.concatenate((rows, more))
    kinds = rows["verdict"] & 0x7F
    lost = rig.maps.counters()[Counter.RING_FULL] - before[Counter.RING_FULL]
    assert int(rows[kinds == 2]["count"].sum()) == packets
    assert int((kinds == 1).sum()) + lost == packets
    assert lost > 0
