"""Limits of verdicts in a second: what is over them is cut and counted, and what is logged and cut adds up.

Most tests hold the second: they tell the programs that it is a later one than it can be, so that it gives nothing new.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from netns import open_socket

from enrich.wire.batch import Verdict
from probe.kernel.deny_windows import DenyWindows
from probe.kernel.layout import LIMIT, Config, Counter
from probe.kernel_words import set_limits
from tests.kernel.rig import FAMILIES, WINDOW_NS, Rig, both
from tests.kernel.takeover import restart
from tests.kernel.test_decisions import check, read

pytestmark = pytest.mark.kernel

ALLOWED, DENIED = 0, 1
NEVER = 1 << 40
COUNTERS = Counter.LIMITED_ALLOWED, Counter.LIMITED_DENIED
SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}


def hold(rig: Rig, taken: int = 0, second: int = NEVER) -> None:
    """Begin a second in which so much has been taken."""
    for number in (ALLOWED, DENIED):
        rig.maps["limits"].set(number.to_bytes(4, "little"), np.array((second, taken), LIMIT).tobytes())


def taken(rig: Rig, number: int) -> int:
    value = rig.maps["limits"].get(number.to_bytes(4, "little"))
    return int(value["taken"]) if value is not None else -1


class Shop:
    """A server that takes the ports below 2000 only, and a client that sends from one port to some of the server's."""

    def __init__(self, rig: Rig, family: int = 4) -> None:
        self.rig, self.family = rig, family
        self.client, self.server = both(rig, "a/client", 1), both(rig, "a/server", 2)
        rig.policy("a/in", **SERVER, ingress=[{"ports": [{"port": 1000, "endPort": 1999, "protocol": "UDP"}]}])
        rig.apply()
        rig.drain()
        self.before = rig.maps.counters()
        rig.maps.take_limited()
        hold(rig)
        self.socket = open_socket(self.client, family, socket.SOCK_DGRAM)

    def limit(self, allowed: int, denied: int) -> None:
        self.rig.maps.configure(Config.LIMIT_ALLOWED, allowed)
        self.rig.maps.configure(Config.LIMIT_DENIED, denied)

    def send(self, first: int, flows: int, packets: int = 1) -> None:
        for number in range(flows * packets):
            self.socket.sendto(b"x", (self.server.address(self.family), first + number % flows))

    def cut(self) -> list[int]:
        """How many allowed and denied verdicts were cut."""
        counters = self.rig.maps.counters()
        return [counters[one] - self.before[one] for one in COUNTERS]

    def logged(self, verdict: Verdict) -> Any:
        """Drain the ring, and return the counts of the verdicts of this kind."""
        rows = self.rig.drain()
        return rows["count"][(rows["verdict"] & 0x7F) == verdict]

    def close(self) -> None:
        self.socket.close()
        hold(self.rig, second=0)
        self.limit(0, 0)
        # Windows of any age are over.
        self.rig.maps.configure(Config.WINDOW_NS, 0)
        while self.rig.windows.rotate():
            self.rig.drain()
        self.rig.maps.configure(Config.WINDOW_NS, WINDOW_NS)


@pytest.fixture
def shop(rig: Rig) -> Iterator[Shop]:
    made = Shop(rig)
    yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_allowed_connections_over_the_limit_are_cut_and_denied_ones_keep_their_room(rig: Rig, family: int) -> None:
    shop = Shop(rig, family)
    try:
        shop.limit(5, 1000)
        shop.send(1000, 12, packets=3)
        shop.send(2000, 20)
        rows = rig.drain()
        kinds = rows["verdict"] & 0x7F
        # The client's end allows all 32 flows, the server's 12.
        assert (kinds == Verdict.ALLOW).sum() == 5
        assert shop.cut() == [32 + 12 - 5, 0]
        assert (kinds == Verdict.DENY).sum() == 20, "allows take no room of denies"
        limited = rig.maps.take_limited()
        assert {verdict for _, verdict, _ in limited} == {Verdict.ALLOW}
        assert sum(count for _, _, count in limited) == 39
        names = [(rig.numbers.meaning("endpoint", number) or {})["pod"] for number, _, _ in limited]
        assert sorted(names) == ["client", "server"]
        assert rig.maps.take_limited() == []
    finally:
        shop.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_denied_flows_over_the_limit_are_cut_and_those_within_it_keep_exact_counts(rig: Rig, family: int) -> None:
    shop = Shop(rig, family)
    try:
        shop.limit(0, 3)
        rig.maps.configure(Config.WINDOW_NS, 10**8)
        shop.send(2000, 10, packets=4)
        assert shop.logged(Verdict.DENY).tolist() == [1, 1, 1]
        assert shop.cut() == [0, 7 * 4]
        # Closing may take half of the limit in advance: two of the three.
        assert rig.windows.rotate() == 2
        assert shop.logged(Verdict.DENY).tolist() == [3, 3]
        assert taken(rig, DENIED) == 5
        hold(rig)
        rig.windows.rotate()
        assert shop.logged(Verdict.DENY).tolist() == [3]
        assert shop.cut() == [0, 7 * 4]
    finally:
        shop.close()


def test_each_decision_is_written_cut_or_waits(rig: Rig, shop: Shop) -> None:
    shop.limit(3, 3)
    rig.maps.configure(Config.WINDOW_NS, 10**8)
    shop.send(1000, 8, packets=2)
    shop.send(2000, 8, packets=3)
    for _ in range(2):
        found = read(rig)
        check(found)
        assert min(found.cut["limit_allowed"], found.cut["limit_denied"], found.waiting) > 0
        rig.windows.rotate()


def test_a_window_that_finds_no_room_goes_on_counting(rig: Rig, shop: Shop) -> None:
    shop.limit(0, 2)
    rig.maps.configure(Config.WINDOW_NS, 10**8)
    shop.send(2000, 2, packets=2)
    hold(rig, taken=3)
    total = 0
    for _ in range(3):
        rig.windows.rotate()
        shop.send(2000, 2, packets=2)
        total += 4
    assert shop.logged(Verdict.DENY).tolist() == [1, 1]
    hold(rig)
    shop.limit(0, 1000)
    counts: list[int] = []
    while rig.windows.rotate():
        counts += shop.logged(Verdict.DENY).tolist()
    assert sum(counts) == 2 + total
    assert shop.cut() == [0, 0]


def test_a_flood_waits_for_room_too_and_loses_no_count(rig: Rig, shop: Shop) -> None:
    rig.maps.configure(Config.POD_DENIED_FLOWS, 2)
    rig.maps.configure(Config.WINDOW_NS, 10**8)
    try:
        shop.limit(0, 4)
        shop.send(2000, 50)
        hold(rig, taken=6)
        rig.windows.rotate()
        assert shop.logged(Verdict.DENY).tolist() == [1, 1]
        hold(rig)
        rig.windows.rotate()
        assert shop.logged(Verdict.DENY).tolist() == [48]
        assert shop.cut() == [0, 0]
    finally:
        rig.maps.configure(Config.POD_DENIED_FLOWS, 1000)


def test_audited_connections_have_the_room_of_denied_ones(rig: Rig, shop: Shop) -> None:
    rig.policy("a/in", {"kubeweir.io/mode": "audit"}, **SERVER, ingress=[])
    rig.apply()
    shop.limit(1000, 2)
    shop.send(2000, 6)
    assert len(shop.logged(Verdict.AUDIT)) == 2
    assert shop.cut() == [0, 4]
    assert {(verdict, count) for _, verdict, count in rig.maps.take_limited()} == {(Verdict.AUDIT, 4)}


def test_without_a_limit_nothing_is_counted(rig: Rig, shop: Shop) -> None:
    shop.limit(0, 0)
    shop.send(1000, 5)
    shop.send(2000, 5, packets=2)
    rig.windows.rotate()
    assert [taken(rig, number) for number in (ALLOWED, DENIED)] == [0, 0]
    assert shop.cut() == [0, 0]


def test_each_second_gives_new_room_less_what_was_taken_in_advance(rig: Rig, shop: Shop) -> None:
    shop.limit(10, 10)
    now = time.monotonic_ns() // 10**9
    # Of 1,000 seconds, all but the last 100 have been taken in advance already.
    hold(rig, taken=10 * 1100, second=now - 1000)
    shop.send(1000, 5)
    assert shop.cut() == [10, 0]
    assert 0 < taken(rig, ALLOWED) <= 1000
    hold(rig, taken=10 * 900, second=now - 1000)
    shop.send(1100, 5)
    assert shop.cut() == [10, 0], "each has room"


def test_a_lower_limit_has_room_at_once(rig: Rig, shop: Shop) -> None:
    hold(rig, taken=10**6, second=time.monotonic_ns() // 10**9)
    set_limits(rig.maps, 5, 5)
    shop.send(1000, 1)
    shop.send(2000, 3)
    assert shop.cut() == [0, 0]
    assert shop.logged(Verdict.DENY).tolist() == [1, 1, 1]


def test_each_flow_is_reported_in_its_turn_while_more_are_active_than_there_is_room_for(rig: Rig, shop: Shop) -> None:
    windows = DenyWindows(rig.maps)
    windows.stop.set()
    shop.send(2000, 12)
    rig.drain()
    shop.limit(0, 2)
    reported: set[int] = set()
    for _ in range(12):
        shop.send(2000, 12)
        hold(rig)
        windows.rotate()
        reported |= set(rig.drain()["destination_port"].tolist())
    assert reported == set(range(2000, 2012))
    assert shop.cut() == [0, 0]


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_another_generation_takes_over_what_the_windows_hold_although_there_is_no_room(own: Rig) -> None:
    shop = Shop(own)
    shop.limit(0, 3)
    shop.send(2000, 3, packets=4)
    hold(own, taken=100)
    denied = shop.logged(Verdict.DENY).tolist()
    shop.socket.close()
    restart(own, CONNECTIONS=32768)
    own.apply()
    rows = own.drain()
    denied += rows["count"][(rows["verdict"] & 0x7F) == Verdict.DENY].tolist()
    assert sorted(denied) == [1, 1, 1, 3, 3, 3]
