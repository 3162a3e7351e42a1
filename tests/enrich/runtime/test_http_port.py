"""The health port answers kubelet and Prometheus while others hold connections, read slowly, or send rubbish."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from enrich.runtime import http_port
from enrich.runtime.http_port import MAX_CONNECTIONS, Closed, HttpPort, Response
from tests.waiting import until

_LARGE = b"x" * (8 << 20)
"""More than the buffers of both sockets hold."""


class Served:
    """A port, what it counted, and connections to it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.closed: list[Closed] = []
        self.renders = threading.Semaphore(1 << 20)
        """How many scrapes may still be answered."""
        self.is_rendering = threading.Event()
        self.port = HttpPort(("127.0.0.1", 0), self._answer, {"/metrics"}, self.closed.append)
        self._stack = stack
        stack.callback(self.port.close)

    def _answer(self, path: str) -> Response:
        if path == "/broken":
            raise RuntimeError("a check failed")
        if path == "/metrics":
            self.is_rendering.set()
            assert self.renders.acquire(timeout=120)
            return Response(200, _LARGE)
        return Response(200, b"ok\n")

    def connect(self, sends: bytes = b"") -> socket.socket:
        made = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port.port), timeout=120))
        with contextlib.suppress(OSError):
            made.sendall(sends)
        return made

    def get(self, path: str = "/readyz", request: bytes = b"") -> bytes:
        """The whole answer: it ends where the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port.port), timeout=120) as made:
            made.sendall(request or f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            return rest_of(made)


def rest_of(connection: socket.socket) -> bytes:
    blocks = []
    while block := connection.recv(1 << 16):
        blocks.append(block)
    return b"".join(blocks)


@pytest.fixture
def served() -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        yield Served(stack)


@contextlib.contextmanager
def _idle_and_slow(served: Served) -> Iterator[None]:
    """Connect 250 times: 200 clients send nothing, 50 a byte from time to time."""
    for _ in range(200):
        served.connect()
    slow = [served.connect(b"G") for _ in range(50)]
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(1):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"E")

    trickler = threading.Thread(target=trickle)
    trickler.start()
    try:
        yield
    finally:
        stop.set()
        trickler.join()


def test_idle_and_slow_connections_keep_no_other_waiting(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "_REQUEST_S", 3600.0)
    threads = threading.active_count()
    with _idle_and_slow(served):
        for _ in range(4):
            assert served.get("/readyz").startswith(b"HTTP/1.1 200 OK\r\n")
            assert threading.active_count() == threads + 1, "a thread for each connection"
            time.sleep(0.4)


def test_idle_and_slow_connections_are_closed(served: Served) -> None:
    """Most at once for later ones, the rest because their request took too long."""
    with _idle_and_slow(served):
        until(lambda: len(served.closed) == 250)
    assert served.closed.count(Closed.SLOW_REQUEST) <= MAX_CONNECTIONS
    assert set(served.closed) == {Closed.SLOW_REQUEST, Closed.DISPLACED}


def test_a_slow_reader_of_a_large_answer_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(http_port, "_ANSWER_S", 0.5)
        reader = served.connect(b"GET /metrics HTTP/1.1\r\n\r\n")
        until(lambda: served.closed == [Closed.SLOW_READER])
    with contextlib.suppress(ConnectionResetError):
        assert len(rest_of(reader)) < len(_LARGE)
    assert served.get("/metrics").endswith(_LARGE), "who reads gets all of it"


def test_a_probe_waits_for_one_scrape_at_most(served: Served) -> None:
    served.renders = threading.Semaphore(0)
    for _ in range(10):
        served.connect(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert served.is_rendering.wait(120)
    probe = served.connect(b"GET /healthz HTTP/1.1\r\n\r\n")
    served.renders.release()
    try:
        assert rest_of(probe).endswith(b"ok\n")
    finally:
        served.renders.release(1 << 20)


def test_requests_in_pieces_and_both_ends_of_a_connection(served: Served) -> None:
    connection = served.connect(b"GET /readyz?x=1 HTT")
    time.sleep(0.1)
    connection.sendall(b"P/1.0\r\nHost: a\r\n")
    time.sleep(0.1)
    connection.sendall(b"\r\n")
    assert rest_of(connection) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n"
        b"Connection: close\r\n\r\nok\n"
    )
    head = served.get(request=b"HEAD /readyz HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 3\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert served.closed == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", b"405"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
    ],
)
def test_what_cannot_be_answered_is_said(served: Served, request_: bytes, status: bytes) -> None:
    assert served.get(request=request_).split()[1] == status
    assert served.get().endswith(b"ok\n"), "the thread goes on"


def test_a_request_without_an_end_is_closed(served: Served) -> None:
    connection = served.connect(b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"a" * 8200)
    with contextlib.suppress(ConnectionResetError):
        assert rest_of(connection) == b""
    until(lambda: served.closed == [Closed.TOO_LARGE])
