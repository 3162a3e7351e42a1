"""The kernel's tally of decisions adds up whether they are written, cut or lost, and while packets flow."""

from __future__ import annotations

import socket
import threading

import pytest
from netns import connects, listen, open_socket

from probe.kernel.decisions import Decisions, read_decisions
from probe.kernel.layout import Config
from probe.policy.logging import LoggingDefaults
from tests.kernel.rig import FAMILIES, Rig, both

pytestmark = pytest.mark.kernel


def read(rig: Rig) -> Decisions:
    return read_decisions(rig.maps, lambda: rig.ring.producer_number)


def found(tally: Decisions) -> int:
    return tally.written + tally.waiting + sum(tally.cut.values()) + sum(tally.lost.values())


def check(tally: Decisions) -> None:
    least, most = tally.decided
    assert least <= found(tally) <= most
    assert tally.ring[0] <= tally.verdicts <= tally.ring[1]


def traffic(rig: Rig, family: int, packets: int = 30) -> None:
    """One connection that passes, and packets to several ports that are denied."""
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    with listen(server, family, 80):
        assert connects(client, server.address(family), 80)
    with open_socket(client, family, socket.SOCK_DGRAM) as here:
        for number in range(packets):
            here.sendto(b"x", (server.address(family), 1000 + number % 3))


def closed(rig: Rig) -> None:
    both(rig, "a/client", 1)
    both(rig, "a/server", 2)
    rig.policy("a/in", podSelector={"matchLabels": {"app": "server"}}, ingress=[{"ports": [{"port": 80}]}])
    rig.apply()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_decision_is_written_or_cut_or_waits_for_its_window(rig: Rig, family: int) -> None:
    closed(rig)
    before = read(rig)
    check(before)
    traffic(rig, family)
    waiting = read(rig)
    check(waiting)
    made = waiting.decided[0] - before.decided[1]
    # The client's end allows each flow, and the server's end denies each packet.
    assert made >= 30
    assert waiting.waiting - before.waiting == 27
    rig.windows.rotate()
    rotated = read(rig)
    check(rotated)
    assert rotated.waiting == 0
    assert rotated.written - waiting.written == waiting.waiting
    rig.logging.defaults = LoggingDefaults("none")
    rig.apply()
    traffic(rig, family)
    cut = read(rig)
    check(cut)
    assert cut.written == rotated.written
    assert sum(cut.cut.values()) - sum(rotated.cut.values()) == cut.decided[0] - rotated.decided[0] >= 30


def test_what_is_lost_is_in_the_tally_and_a_decision_that_is_nowhere_shows(rig: Rig) -> None:
    closed(rig)
    rig.maps.configure(Config.POD_DENIED_FLOWS, 0)
    before = read(rig)
    client, server = rig.pods["a/client"], rig.pods["a/server"]
    with open_socket(client, 4, socket.SOCK_DGRAM) as here:
        # Nobody reads the ring: a flow to each port is allowed at the client's end, until the ring is full.
        for port in range(1, rig.ring.capacity + 100):
            here.sendto(b"x", (server.address(4), port))
    full = read(rig)
    check(full)
    assert full.lost["ring_full"] > before.lost["ring_full"]
    rig.drain()
    tally = read(rig)
    assert found(tally._replace(written=tally.written - 1)) < tally.decided[0], "one decision is nowhere"


def test_the_tally_adds_up_while_packets_flow(rig: Rig) -> None:
    closed(rig)
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            traffic(rig, 4, 300)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(20):
            check(read(rig))
            rig.windows.rotate()
            rig.seen()
    finally:
        stop.set()
        sender.join()
    rig.windows.rotate()
    tally = read(rig)
    assert tally.decided[0] == tally.decided[1] == found(tally)
