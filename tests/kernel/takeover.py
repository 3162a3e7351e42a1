"""What the tests of a takeover by another generation share: pods, traffic that policy allows or denies, its account."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import numpy as np
from netns import PATIENCE_S, Space, open_socket

from enrich.wire.batch import Verdict
from tests.kernel.rig import SIZES, Rig, both

VerdictArray = np.ndarray[Any, np.dtype[np.void]]

TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}
FROM_CLIENT = [{"podSelector": {"matchLabels": {"app": "client"}}}]
ALLOWED, DENIED = 7000, 7001


def make_pods(own: Rig) -> tuple[Space, Space]:
    """Make a client, and a server that it may reach by TCP port 80 and UDP port 7000."""
    ports = [{"port": 80}, {"port": ALLOWED, "protocol": "UDP"}]
    own.policy("a/in", **TO_SERVER, ingress=[{"from": FROM_CLIENT, "ports": ports}])
    made = both(own, "a/client", 1), both(own, "a/server", 2)
    own.apply()
    return made


def restart(rig: Rig, **sizes: int) -> None:
    """Start the next probe, with other sizes, up to where it installs policy."""
    rig.crash()
    rig.sizes = {**SIZES, **sizes}
    rig.open()


def holders(rig: Rig) -> dict[bytes, bytes | None]:
    """Return, for each connection, which one has the place that it names; None: it names none."""
    numbers, places = rig.maps["places"].entries()
    keys = {int(number): place["key"].tobytes() for number, place in zip(numbers, places, strict=True)}
    found = zip(*rig.maps["connections"].entries(), strict=True)
    return {key.tobytes(): keys.get(int(value["place"]) - 1, b"") if value["place"] else None for key, value in found}


class Traffic:
    """Datagrams in one flow that policy allows and in one that it denies, answered, until it is stopped."""

    def __init__(self, client: Space, server: Space, family: int) -> None:
        self.sent = self.answered = self.denied = self.passed = 0
        self._stop, self._over = threading.Event(), threading.Event()
        self._client, self._server, self._family = client, server, family
        self._ready = threading.Barrier(3)
        self._threads = [threading.Thread(target=work) for work in (self._answer, self._ask)]
        for thread in self._threads:
            thread.start()
        self._ready.wait()

    def _ask(self) -> None:
        address = self._server.address(self._family)
        with open_socket(self._client, self._family, socket.SOCK_DGRAM) as out:
            out.bind(("", 4000))
            # Far longer than five processes on two cores hold an answer up: what is lost never comes. Of 52,620,
            # most of them beside four busy loops, all came, one of them after 2.3 s.
            out.settimeout(PATIENCE_S)
            self._ready.wait()
            while not self._stop.wait(0.002):
                out.sendto(b"denied", (address, DENIED))
                self.denied += 1
                out.sendto(b"allowed", (address, ALLOWED))
                self.sent += 1
                with contextlib.suppress(TimeoutError):
                    out.recv(64)
                    self.answered += 1

    def _answer(self) -> None:
        with (
            open_socket(self._server, self._family, socket.SOCK_DGRAM) as good,
            open_socket(self._server, self._family, socket.SOCK_DGRAM) as bad,
        ):
            good.bind(("", ALLOWED))
            bad.bind(("", DENIED))
            good.settimeout(0.1)
            bad.settimeout(0)
            self._ready.wait()
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    _, peer = good.recvfrom(64)
                    good.sendto(b"answer", peer)
                with contextlib.suppress(BlockingIOError):
                    bad.recv(64)
                    self.passed += 1

    def stop(self) -> None:
        answering, asking = self._threads
        self._stop.set()
        asking.join()
        self._over.set()  # every question has its answer
        answering.join()

    def check(self, verdicts: VerdictArray) -> None:
        """Check that each allowed datagram was answered, and each denied one dropped and counted; no other was."""
        assert self.answered == self.sent, f"{self.sent - self.answered} of {self.sent} were not answered"
        assert self.passed == 0
        denials = verdicts[verdicts["verdict"] & 0x7F == Verdict.DENY]
        of_denied_flow = denials["destination_port"] == DENIED
        assert int(denials[of_denied_flow]["count"].sum()) == self.denied
        assert of_denied_flow.all()
