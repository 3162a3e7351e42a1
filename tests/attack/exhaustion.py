"""Attacks by numbers: one pod, or a host outside, uses up what all pods of the node share."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator, Sequence

from netns import Space, open_socket

from probe.kernel.layout import Config
from tests.attack.ground import Ground, Shot, any_number, fragment
from tests.attack.pace import check_kept
from tests.attack.tally import Tally, attack
from tests.kernel.ear import new_mark
from tests.kernel.frames import udp
from tests.kernel.rig import FAMILIES, both

_NOWHERE = {4: "10.244.9.9", 6: "fd44::999"}
_WAITING = 40
"""Answers that the victim waits for in each family. They take more places than are reserved for it."""
_FIRST_PORT, _LAST_PORT = 1000, 32_000
"""Of the pod that waits, these are open to all. Sockets that wait for answers have higher ones."""
_FRAGMENTED = 20
_UNANSWERED_S = 30.0
"""TIMEOUT_UNANSWERED of ``bpf/connections.h``. First fragments of IPv4 are kept as long (``bpf/fragments.h``)."""
_CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}


class _Asking:
    """A closed pod that waits for the answers to what it has asked a server: nobody else lets them in."""

    def __init__(self, ground: Ground, client: Space, server: Space) -> None:
        self._ground, self._asked = ground, time.monotonic()
        self._there = {family: open_socket(server, family, socket.SOCK_DGRAM) for family in FAMILIES}
        self._here = []
        for family, there in self._there.items():
            there.bind((server.address(family), 53))
            there.settimeout(ground.patience(5))
            for _ in range(_WAITING):
                here = open_socket(client, family, socket.SOCK_DGRAM)
                here.connect((server.address(family), 53))
                here.send(b"?")
                self._here.append(here)

    def lost(self) -> int:
        """Answer everything; return how many answers do not arrive."""
        for there in self._there.values():
            for _ in range(_WAITING):
                there.sendto(b"!", there.recvfrom(10)[1])
        took = time.monotonic() - self._asked
        end = time.monotonic() + self._ground.patience(0.5)
        lost = sum(not _has_answer(here, max(0.01, end - time.monotonic())) for here in self._here)
        if lost:
            check_kept("a connection without an answer", _UNANSWERED_S, took)
        return lost

    def close(self) -> None:
        for one in (*self._here, *self._there.values()):
            one.close()


def _has_answer(here: socket.socket, seconds: float) -> bool:
    here.settimeout(seconds)
    try:
        return here.recv(10) == b"!"
    except TimeoutError:
        return False


def _flood(sender: Space, family: int, to: str, ports: Sequence[int]) -> None:
    """Open as many flows as there are ports."""
    with open_socket(sender, family, socket.SOCK_DGRAM) as out:
        for port in ports:
            out.sendto(b"x", (to, port))


def _waiting(ground: Ground) -> tuple[Space, Space]:
    rig = ground.rig
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    ports = [{"port": _FIRST_PORT, "endPort": _LAST_PORT, "protocol": "UDP"}]
    rig.policy("a/client", **_CLIENT, ingress=[{"ports": ports}])
    return client, server


@attack("one pod that fills the table of connections, by calling nobody, a server, or a pod that waits for answers")
def connections(ground: Ground) -> Iterator[Tally]:
    """Without a limit for each pod. Another one waits for answers, more than are reserved for it."""
    rig = ground.rig
    client, server = _waiting(ground)
    evil = both(rig, "b/evil", 3)
    rig.apply()
    limit = rig.maps.config(Config.POD_CONNECTIONS)
    ground.after(rig.maps.configure, Config.POD_CONNECTIONS, limit)
    places = rig.sizes["CONNECTIONS"]
    rig.maps.configure(Config.POD_CONNECTIONS, places)
    # A flow to another pod makes two entries, so to all three targets together these are more than twice the table.
    flooded = range(_FIRST_PORT, _FIRST_PORT + places * 15 // 32)
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        to = (_NOWHERE[family], server.address(family), client.address(family))
        asking = _Asking(ground, client, server)
        for target in to:
            _flood(evil, family, target, flooded)
        lost = asking.lost()
        asking.close()
        yield Tally(len(to), lost, 2 * _WAITING, lost)


@attack("a host outside that floods a pod which waits for answers")
def connections_from_outside(ground: Ground) -> Iterator[Tally]:
    """It takes places of the pod that it calls, and none that belong to what that pod has opened itself."""
    rig = ground.rig
    client, server = _waiting(ground)
    world = ground.world()
    rig.apply()
    flows = rig.sizes["CONNECTIONS"] // 6
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        asking = _Asking(ground, client, server)
        _flood(world, family, client.address(family), range(_FIRST_PORT, _FIRST_PORT + flows))
        lost = asking.lost()
        asking.close()
        yield Tally(1, lost, 2 * _WAITING, lost)


@attack("a flood of first fragments while another pod's datagrams are on their way")
def fragment_flood(ground: Ground) -> Iterator[Tally]:
    """To another pod of the node, so that both hooks of it store them."""
    rig = ground.rig
    names = ("a/client", "a/server", "b/evil", "b/receiver")
    client, server, evil, receiver = (both(rig, name, number) for number, name in enumerate(names, 1))
    rig.apply()
    wire, noise, ear = ground.wire(client), ground.wire(evil), ground.ear(server)
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        ends, start = (client.address(family), server.address(family)), any_number()
        numbers = [(start + number) & 0xFFFF for number in range(_FRAGMENTED)]
        began = time.monotonic()
        for number in numbers:
            wire.send(fragment(family, ends, 17, udp(1000, data=bytes(24))[:16], 0, number, more=True))
        false = evil.address(family), receiver.address(family)
        for number in range(2 * rig.sizes["FRAGMENTS"]):
            noise.send(fragment(family, false, 17, udp(9, data=bytes(8)), 0, number & 0xFFFF, more=True))
        later = []
        for number in numbers:
            mark = new_mark()
            later.append(Shot([fragment(family, ends, 17, mark, 16, number, more=False)], mark))
        took = time.monotonic() - began
        counted = ground.volley(wire, ear, [], later)
        if counted.lost:
            check_kept("a first fragment", _UNANSWERED_S, took)
        yield Tally(1, counted.lost, counted.allowed, counted.lost)


@attack("denied flows without number, to hide those of another pod from the log")
def denied_flows(ground: Ground) -> Iterator[Tally]:
    """To the same receiver. The other pod's denied flows, as many as are reserved for it, keep their addresses."""
    rig = ground.rig
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    evil = both(rig, "b/evil", 3)
    rig.policy("a/none", podSelector={"matchLabels": {"app": "server"}}, ingress=[])
    rig.apply()
    flows = rig.maps.config(Config.POD_DENIED_FLOWS)
    ground.after(rig.maps.configure, Config.POD_DENIED_FLOWS, flows)
    rig.maps.configure(Config.POD_DENIED_FLOWS, rig.sizes["DENIED_FLOWS"])
    reserved = rig.sizes["DENIED_FLOWS"] // 2 // rig.sizes["ENDPOINTS"] // 2
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        rig.seen()
        _flood(evil, family, server.address(family), range(1000, 1000 + 2 * rig.sizes["DENIED_FLOWS"]))
        _flood(client, family, server.address(family), range(1000, 1000 + reserved))
        rig.windows.rotate()
        denied = [row for row in rig.seen() if row.verdict == "deny"]
        named = {row.port for row in denied if row.source == client.address(family)}
        yield Tally(1, reserved - len(named), reserved, reserved - len(named))
        # Else flows that have just been denied would count in the next window as well.
        length = rig.maps.config(Config.WINDOW_NS)
        rig.maps.configure(Config.WINDOW_NS, 0)
        rig.windows.rotate()
        rig.maps.configure(Config.WINDOW_NS, length)
