"""Another size or layout takes over while packets flow: nothing breaks, nothing denied passes, no verdict is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from netns import Space, connects, listen, open_socket

from probe.kernel.generations import generation_name
from tests.kernel.rig import SIZES, Rig, both, of
from tests.waiting import until

pytestmark = pytest.mark.kernel

TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}
FROM_CLIENT = [{"podSelector": {"matchLabels": {"app": "client"}}}]
ALLOWED, DENIED = 7000, 7001


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """Make a rig of the test's own; the parameter is how it attaches."""
    rig = Rig(tmp_path, request.param)
    yield rig
    rig.close()


def make_pods(own: Rig) -> tuple[Space, Space]:
    """Make a client, and a server that it may reach by TCP port 80 and UDP port 7000."""
    ports = [{"port": 80}, {"port": ALLOWED, "protocol": "UDP"}]
    own.policy("a/in", **TO_SERVER, ingress=[{"from": FROM_CLIENT, "ports": ports}])
    made = both(own, "a/client", 1), both(own, "a/server", 2)
    own.apply()
    return made


@pytest.fixture
def pods(own: Rig) -> tuple[Space, Space]:
    """Make a client and a server."""
    return make_pods(own)


def restart(rig: Rig, **sizes: int) -> None:
    """Start the next probe, with other sizes, up to where it installs policy."""
    rig.crash()
    rig.sizes = {**SIZES, **sizes}
    rig.open()


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
            out.settimeout(2)
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


_OTHER_RING = {"RING_BYTES": 1 << 21, "DENIED_FLOWS": 8192, "ENDPOINTS": 512}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("own", "family", "sizes"),
    [
        ("tcx", 4, {"POLICY_ENTRIES": 512}),
        ("tcx", 6, {"CONNECTIONS": 1 << 17}),
        ("clsact", 4, {"CONNECTIONS": 1 << 15}),
        ("clsact", 6, _OTHER_RING),
    ],
    indirect=["own"],
)
def test_another_size_takes_over_under_traffic(
    own: Rig, pods: tuple[Space, Space], family: int, sizes: dict[str, int]
) -> None:
    client, server = pods
    traffic = Traffic(client, server, family)
    listening = listen(server, family, 80)
    connection = open_socket(client, family, socket.SOCK_STREAM)
    connection.connect((server.address(family), 80))
    accepted, _ = listening.accept()
    try:
        verdicts = [own.drain()]
        before = own.maps.ring_id
        restart(own, **sizes)
        own.apply()
        assert own.maps.ring_id != before
        connection.sendall(b"x")
        assert accepted.recv(1) == b"x"
        asked = traffic.answered
        until(lambda: traffic.answered > asked + 50)
    finally:
        traffic.stop()
        for one in (listening, connection, accepted):
            one.close()
    own.windows.rotate()
    own.windows.rotate()
    verdicts.append(own.drain())
    assert traffic.answered == traffic.sent
    assert traffic.passed == 0
    told = np.concatenate(verdicts)
    denied = told[(told["verdict"] & 0x7F == 2) & (told["destination_port"] == DENIED)]
    assert int(denied["count"].sum()) == traffic.denied
    assert not ((told["verdict"] & 0x7F == 2) & (told["destination_port"] != DENIED)).any()
    # One generation is left, with the new sizes.
    assert {path.name for path in own.pins.iterdir()} == {"links", generation_name(own.sizes)}


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_the_sizes_are_those_of_the_settings(own: Rig, pods: tuple[Space, Space]) -> None:
    restart(own, POLICY_ENTRIES=512, CONNECTIONS=1024)
    own.apply()
    assert own.maps["policy_entries"].max_entries == 512
    assert own.maps["connections"].max_entries == 1024
    client, server = pods
    own.drain()
    with listen(server, 4, 80), listen(server, 4, 81):
        assert connects(client, server.address(4), 80)
        assert not connects(client, server.address(4), 81)
    assert {(row.verdict, row.port) for row in of(own.seen(), subject="a/server")} == {("allow", 80), ("deny", 81)}
