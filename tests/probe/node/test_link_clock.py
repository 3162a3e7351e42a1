"""The bounds that the link clock gives to the moments at which interfaces appear and disappear."""

from __future__ import annotations

import struct

import pytest

from probe.node.link_clock import Bounds, LinkClock

NEWLINK, DELLINK, NEWADDR = 16, 17, 20
AF_BRIDGE = 7


def message(kind: int, index: int, changed: int = 0xFFFFFFFF, family: int = 0) -> bytes:
    """Make struct nlmsghdr and struct ifinfomsg."""
    return struct.pack("=IHHIIBBHiII", 32, kind, 0, 0, 0, family, 0, 1, index, 0, changed)


@pytest.fixture
def clock() -> LinkClock:
    """Make a clock that caught up at 100; now is 150."""
    made = LinkClock(lambda: 150)
    made.caught_up_ns = 100
    return made


def test_each_interface_of_a_read_has_the_same_bounds(clock: LinkClock) -> None:
    clock.observe(message(NEWLINK, 7) + message(DELLINK, 5) + message(NEWLINK, 8))
    assert clock.appeared(7) == clock.appeared(8) == Bounds(after=100, by=150)
    assert clock.disappeared(5) == Bounds(after=100, by=150)
    assert (clock.appeared(5), clock.disappeared(7)) == (None, None)


def test_an_interface_appears_once(clock: LinkClock) -> None:
    clock.observe(message(NEWLINK, 7))
    clock.caught_up_ns = 140
    clock.observe(message(NEWLINK, 7))
    assert clock.appeared(7) == Bounds(after=100, by=150)


def test_messages_about_changes_and_addresses_are_ignored(clock: LinkClock) -> None:
    clock.observe(message(NEWLINK, 7, changed=1) + message(NEWADDR, 8))
    assert (clock.appeared(7), clock.appeared(8)) == (None, None)


@pytest.mark.parametrize("kind", [NEWLINK, DELLINK])
def test_what_a_bridge_says_of_its_ports_is_ignored(clock: LinkClock, kind: int) -> None:
    clock.observe(message(kind, 7, family=AF_BRIDGE))
    assert (clock.appeared(7), clock.disappeared(7)) == (None, None)


@pytest.mark.parametrize("cut", [1, 16, 31])
def test_a_torn_message_is_ignored(clock: LinkClock, cut: int) -> None:
    clock.observe(message(NEWLINK, 7) + message(NEWLINK, 8)[:cut])
    assert clock.appeared(7) is not None
    assert clock.appeared(8) is None


def test_a_message_of_no_length_ends_the_read(clock: LinkClock) -> None:
    clock.observe(bytes(32) + message(NEWLINK, 7))
    assert clock.appeared(7) is None
