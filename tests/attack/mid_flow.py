"""Attacks by packets without a handshake, which pretend to continue a connection."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import closing

from netns import MOMENT_S, PATIENCE_S, Space, listen, open_socket

from tests.attack.ground import Ground, Shot, datagram
from tests.attack.tally import Tally, attack
from tests.kernel.ear import new_mark
from tests.kernel.frames import segment
from tests.kernel.rig import FAMILIES, both
from tests.kernel.tracking import tracking

_FLAGS = (16, 24, 17, 1, 4, 20, 18, 32, 0, 41)
"""ACK, PSH and ACK, FIN and ACK, FIN, RST, RST and ACK, SYN and ACK, URG, none, and FIN with PSH and URG."""
_MARKER = [{"ports": [{"port": 9, "protocol": "UDP"}]}]


@attack("TCP packets without a handshake out of a pod, and into one, in a direction that policy denies")
def mid_flow(ground: Ground) -> Iterator[Tally]:
    """The other direction is open. The node tracks connections, or does not; each packet is sent again."""
    rig = ground.rig
    client, server, world = both(rig, "a/client", 1), both(rig, "a/server", 2), ground.world()
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=_MARKER)
    rig.policy("a/in", podSelector={"matchLabels": {"app": "server"}}, policyTypes=["Ingress"], ingress=_MARKER)
    rig.apply()
    paths = ((client, world), (world, server), (client, server))
    for on, number, family, (sender, receiver) in itertools.product(
        (True, False), range(ground.rounds), FAMILIES, paths
    ):
        ends = sender.address(family), receiver.address(family)
        wire, ear = ground.wire(sender), ground.ear(receiver)
        with tracking(rig.node, on=on):
            marks = [new_mark() for _ in _FLAGS]
            bad = [
                Shot([segment(*ends, flags, (2000 + 50 * number + flags, 443), mark)], mark)
                for flags, mark in zip(_FLAGS, marks, strict=True)
            ]
            for _ in range(2):
                yield ground.volley(wire, ear, bad, [datagram(family, *ends, 9, 4000 + number)])


@attack("connections opened while the interface was open, that policy denies since")
def opened_before(ground: Ground) -> Iterator[Tally]:
    """Either end speaks, and only the opposite direction is open. One that policy allows must go on."""
    rig = ground.rig
    for number, family in itertools.product(range(ground.rounds), FAMILIES):
        client, server = both(rig, f"a/c{number}-{family}", 1), both(rig, f"a/s{number}-{family}", 2)
        with tracking(rig.node), Pair(client, server, family, 80) as bad, Pair(client, server, family, 81) as good:
            to_server = {"podSelector": {"matchLabels": {"app": f"s{number}-{family}"}}}
            rig.policy("a/in", **to_server, policyTypes=["Ingress"], ingress=[{"ports": [{"port": 81}]}])
            rig.apply(older=True)
            ways = (True, False)
            for first in ways:
                bad.speak(answerer_speaks=first)
            # What the good one says is sent later and arrives, so the bad one's has been judged by then.
            lost = [not good.hears(answerer_speaks=first, seconds=ground.patience(5)) for first in ways]
            through = [bad.is_heard(answerer_speaks=first, seconds=MOMENT_S) for first in ways]
            yield Tally(2, sum(through), 2, sum(lost))
        for pod in ("c", "s"):
            rig.net.remove(rig.pods.pop(f"a/{pod}{number}-{family}"))
            rig.objects.pop(f"a/{pod}{number}-{family}")


class Pair:
    """Both ends of a connection."""

    def __init__(self, client: Space, server: Space, family: int, port: int) -> None:
        with closing(listen(server, family, port)) as listening:
            self._here = open_socket(client, family, socket.SOCK_STREAM)
            self._here.connect((server.address(family), port))
            self._there, _ = listening.accept()
        if not (self.hears(answerer_speaks=True) and self.hears(answerer_speaks=False)):
            raise RuntimeError("a connection does not work before the programs are attached")

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()
        self._there.close()

    def hears(self, *, answerer_speaks: bool, seconds: float = PATIENCE_S) -> bool:
        """Return whether what one end says arrives, perhaps by a retransmission."""
        self.speak(answerer_speaks=answerer_speaks)
        return self.is_heard(answerer_speaks=answerer_speaks, seconds=seconds)

    def speak(self, *, answerer_speaks: bool) -> None:
        (self._there if answerer_speaks else self._here).send(b"x")

    def is_heard(self, *, answerer_speaks: bool, seconds: float) -> bool:
        receiver = self._here if answerer_speaks else self._there
        receiver.settimeout(seconds)
        try:
            return receiver.recv(100) != b""
        except TimeoutError:
            return False
