"""Shares of the look-ups in nf_conntrack: who sends stray packets uses up look-ups of its own. TCX and clsact."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest
from netns import PATIENCE_S, Space, listen, open_socket

from probe import adoption
from probe.kernel.layout import BUDGET, COUNTED_LOOKUPS, LENT, LOOKUPS, UNKNOWN_FLOW, Counter
from tests.kernel.frames import Wire, segment
from tests.kernel.rig import FAMILIES, SIZES, Rig, both
from tests.kernel.test_adoption import forget_entries
from tests.kernel.tracking import tracking
from tests.waiting import until

pytestmark = pytest.mark.kernel

_ACK = 16
_IN_PERIOD = max(2048, 4 * SIZES["ENDPOINTS"])
_RESERVED = _IN_PERIOD // 2 // SIZES["ENDPOINTS"] // 2
CLOSED = {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"ports": [{"port": 9, "protocol": "UDP"}]}]}


def period() -> int:
    """Return the number of the period of look-ups that is now (``LOOKUP_PERIOD``)."""
    return time.monotonic_ns() >> 30 & 0xFFFFFFFF


def await_next_period() -> None:
    ended = period()
    until(lambda: period() != ended)


def asked(rig: Rig) -> int:
    return sum(rig.adoption.lookups.values())


def send(rig: Rig, sender: Space, to: Space, family: int, ports: range) -> None:
    """Send stray ACKs, and wait until each was looked up or counted as not looked up."""
    wire = Wire(sender, rig.node)
    before = asked(rig) + rig.maps.counters()[Counter.LOOKUPS_SPARED]
    for port in ports:
        wire.send(segment(sender.address(family), to.address(family), _ACK, (port, 443), b""))
    wire.close()
    until(lambda: asked(rig) + rig.maps.counters()[Counter.LOOKUPS_SPARED] >= before + len(ports))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pod_has_lookups_of_its_own_when_all_that_are_lent_are_used_up(rig: Rig, family: int) -> None:
    server, stranger = both(rig, "a/server", 2), both(rig, "b/stranger", 3)
    rig.policy("a/in", **CLOSED)
    with tracking(rig.node):
        rig.apply()
        lent = LENT.to_bytes(4, "little")
        # A period may end meanwhile; the next attempt then begins with the next one.
        for attempt in range(10):
            now = period()
            pool = np.frombuffer(rig.maps["budgets"].items()[lent], BUDGET).copy()
            taken = pool["taken"][:, COUNTED_LOOKUPS]
            taken["period"], taken["by_account"] = now, _IN_PERIOD // 2
            rig.maps["budgets"].set(lent, pool.tobytes())
            before = asked(rig)
            send(rig, stranger, server, family, range(1024 + 100 * attempt, 1044 + 100 * attempt))
            if period() == now:
                break
            await_next_period()
        assert asked(rig) - before == _RESERVED


@pytest.mark.parametrize("family", FAMILIES)
def test_each_receiver_of_one_sender_is_paid_for_by_that_sender(rig: Rig, family: int) -> None:
    servers = [both(rig, f"a/s{number}", number, labels={"app": "server"}) for number in range(2, 6)]
    stranger = both(rig, "b/stranger", 9)
    rig.policy("a/in", **CLOSED)
    with tracking(rig.node):
        rig.apply()
        before, started = asked(rig), period()
        for server in servers:
            send(rig, stranger, server, family, range(1024, 1024 + 2 * LOOKUPS))
        assert asked(rig) - before <= LOOKUPS * (period() - started + 1)
        budgets = np.frombuffer(b"".join(rig.maps["budgets"].items().values()), BUDGET)
        assert not budgets["spared"].any(), "the connections of a pod are not read because another one floods it"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flood_from_outside_delays_connections_from_outside_only(
    rig: Rig, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found when all connections of the pod are read."""
    monkeypatch.setattr(adoption, "_CHECK_S", 0.0)
    monkeypatch.setattr(adoption, "_READ_ALL_S", 0.2)
    server = both(rig, "a/server", 2)
    world, flooder = (rig.net.pod(rig.node, f"198.51.100.{number}", f"2001:db8:7::{number}") for number in (7, 8))
    rig.policy("a/in", **CLOSED)
    with (
        tracking(rig.node),
        listen(world, family, 8080) as listening,
        open_socket(server, family, socket.SOCK_STREAM) as here,
    ):
        rig.apply()
        here.connect((world.address(family), 8080))
        there, _ = listening.accept()
        with there:
            forget_entries(rig)
            for start in range(1024, 5024, 1000):
                send(rig, flooder, server, family, range(start, start + 1000))
            until(lambda: 8080 in rig.flows_of("a/server")["remote_port"])
            there.send(b"x")
            here.settimeout(PATIENCE_S)
            assert here.recv(10) == b"x"
    for host in (world, flooder):
        rig.net.remove(host)


def test_the_first_request_of_each_account_comes_before_the_second_of_any() -> None:
    flows = np.zeros(7, UNKNOWN_FLOW)
    flows["payer"] = [3, 3, 3, 4, 3, 3, 5]
    flows["account"] = [0, 0, 0, 0, 1, 1, 0]
    assert adoption._fairly(flows).tolist() == [0, 3, 4, 6, 1, 5, 2]
