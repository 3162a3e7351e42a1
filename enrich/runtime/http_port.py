"""A small HTTP server on one thread, which no client can block for the others.

THEORY OF OPERATION. Clients are kubelet, Prometheus, and any program that reaches the port. With a thread for each
connection, 600 idle connections were 600 threads; with a pool of 16 threads, 16 idle connections would keep kubelet's
probe waiting until they time out. Therefore one thread waits for all sockets at once (``selectors``; asyncio would need
the same limits, and a loop of its own beside the probe's threads):

1. A connection is accepted and read at once. Its request must be complete after 3 seconds, in at most 8 KiB.
2. 32 connections are open at most. One more closes the oldest that has not sent its request: a real client sends it
   within a round trip, so that only 32 new connections in that time displace it.
3. ``answer`` makes the answer. Paths in ``slow`` wait in a queue, of which one is answered between two looks at the
   sockets: many scrapes delay a liveness probe by one scrape.
4. The client has 10 seconds to take the answer. Then, or when it has taken it, the connection is closed (as in
   HTTP/1.0): no connection waits for a second request.

It speaks GET and HEAD without a body, and refuses everything else. With a guard (``enrich.runtime.secure_port``) it
speaks TLS only; the handshake counts as part of the request. If the guard has a gate, a request waits until the gate
knows its token, for the same ten seconds, and others are served meanwhile; ``refused`` answers whoever is not allowed.
"""

from __future__ import annotations

import enum
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import structlog

from enrich.runtime.secure_port import Guard, bearer_token, end_of_answer
from enrich.runtime.token_gate import ALLOWED

log = structlog.get_logger("kubeweir.health")

MAX_CONNECTIONS: Final = 32
_REQUEST_S: Final = 3.0
_ANSWER_S: Final = 10.0
_MAX_REQUEST: Final = 8192
_ACCEPTED_AT_ONCE: Final = 16
"""After so many new connections the others are served first."""
_BACKLOG: Final = 128
_POLL_S: Final = 0.2
_REVIEW_POLL_S: Final = 0.02
_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_PHRASES: Final = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class Closed(enum.Enum):
    """Why the server closed a connection before its client had the answer."""

    DISPLACED = "displaced"
    SLOW_REQUEST = "slow_request"
    SLOW_READER = "slow_reader"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Response:
    """The status, body and type that a path answers with."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


@dataclass(eq=False, slots=True)
class _Connection:
    socket: socket.socket
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    requested: bool = False
    """The request is complete."""
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))


class HttpPort:
    """The listening socket, its thread and its connections."""

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[str], Response],
        slow: Collection[str],
        on_closed: Callable[[Closed], None],
        guard: Guard | None = None,
        refused: Callable[[str, int], Response] = lambda _path, status: Response(status, b"not allowed\n"),
    ) -> None:
        """Listen and start the thread. ``answer`` takes a path without its query. Raises OSError if it cannot listen.

        ``slow``: paths whose answer takes long. ``on_closed`` counts; it is called on the thread, as ``answer`` is.
        """
        self._answer, self._refused, self._slow, self._on_closed = answer, refused, slow, on_closed
        self._guard = guard
        self._listener = _listen(address)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._connections: dict[_Connection, None] = {}
        """Every open connection, the oldest first."""
        self._queue: deque[tuple[_Connection, str, str]] = deque()
        """Complete requests for slow paths: connection, method and path."""
        self._reviewed: list[tuple[_Connection, str, str, str]] = []
        """Complete requests whose token the gate is asking about: connection, method, path and token."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Stop listening, and close every connection."""
        self._stopping.set()
        self._thread.join()
        for connection in tuple(self._connections):
            self._close(connection)
        self._selector.close()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(0 if self._queue else _REVIEW_POLL_S if self._reviewed else _POLL_S):
                if key.data is None:
                    self._accept()
                elif key.data in self._connections:
                    self._proceed(key.data)
            self._close_late()
            self._take_reviewed()
            self._answer_next()

    def _answer_next(self) -> None:
        """Answer the oldest request in the queue whose connection is still open."""
        while self._queue:
            connection, method, path = self._queue.popleft()
            if connection in self._connections:
                self._start_answer(connection, method, self._answer_of(path))
                return

    def _take_reviewed(self) -> None:
        """Go on with the requests about whose tokens the gate knows more now."""
        waiting, self._reviewed = self._reviewed, []
        for connection, method, path, token in waiting:
            if connection in self._connections:
                self._authorize(connection, method, path, token)

    def _authorize(self, connection: _Connection, method: str, path: str, token: str) -> None:
        """Have a request answered if it is known whether its client may read the page, and later if not."""
        gate = self._guard.gate if self._guard else None
        access = ALLOWED if gate is None else gate.look(token, path) if token else 401
        if access is None:
            self._reviewed.append((connection, method, path, token))
            return
        if path in self._slow and access == ALLOWED:
            self._queue.append((connection, method, path))
        else:
            self._start_answer(connection, method, self._answer_of(path, access))

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # The client has disconnected already, or no file descriptor is left: the oldest connection is closed
                # to free one.
                log.warning("the health port cannot accept a connection", error=error.strerror)
                self._displace()
                self._stopping.wait(0.05)
                return
            if len(self._connections) >= MAX_CONNECTIONS:
                self._displace()
            accepted.settimeout(0)
            if self._guard is not None:
                try:
                    accepted = self._guard.wrap(accepted)
                except OSError:  # logged there
                    accepted.close()
                    continue
            connection = _Connection(accepted, time.monotonic() + _REQUEST_S)
            self._connections[connection] = None
            self._selector.register(accepted, selectors.EVENT_READ, connection)
            self._proceed(connection)

    def _displace(self) -> None:
        waiting = (connection for connection in self._connections if not connection.requested)
        oldest = next(waiting, None) or next(iter(self._connections), None)
        if oldest is not None:
            self._close(oldest, Closed.DISPLACED)

    def _close_late(self) -> None:
        now = time.monotonic()
        for connection in [one for one in self._connections if one.deadline < now]:
            self._close(connection, Closed.SLOW_READER if connection.requested else Closed.SLOW_REQUEST)

    def _proceed(self, connection: _Connection) -> None:
        """Read or send as much as there is."""
        try:
            if connection.requested:
                self._send(connection)
            # What TLS has decrypted already makes the socket no more readable.
            while not connection.requested and connection in self._connections:
                self._receive(connection)
        except _BLOCKED:
            return
        except OSError:
            # The client has closed or reset the connection.
            self._close(connection)

    def _receive(self, connection: _Connection) -> None:
        block = connection.socket.recv(_MAX_REQUEST)
        connection.received += block
        if not block:
            self._close(connection)
        elif b"\r\n\r\n" in connection.received:
            self._take_request(connection)
        elif len(connection.received) >= _MAX_REQUEST:
            self._close(connection, Closed.TOO_LARGE)

    def _take_request(self, connection: _Connection) -> None:
        connection.requested, connection.deadline = True, time.monotonic() + _ANSWER_S
        # Nothing is read after the request; what is sent once the answer is known makes it interesting again.
        self._selector.unregister(connection.socket)
        head = connection.received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        words = head[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._start_answer(connection, "GET", Response(400, b"this is not an HTTP/1 request\n"))
            return
        method, path = words[0], words[1].partition("?")[0]
        if method in {"GET", "HEAD"}:
            self._authorize(connection, method, path, bearer_token(head[1:]))
        else:
            self._start_answer(connection, method, Response(405, b"only GET and HEAD\n"))

    def _answer_of(self, path: str, access: int = ALLOWED) -> Response:
        try:
            return self._answer(path) if access == ALLOWED else self._refused(path, access)
        except Exception:
            # The thread must go on: without /healthz kubelet restarts the process.
            log.exception("the health port failed to answer", path=path)
            return Response(500, b"failed, see the log\n")

    def _start_answer(self, connection: _Connection, method: str, answer: Response) -> None:
        head = (
            f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}\r\nContent-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
        )
        connection.unsent = memoryview(head.encode() + (b"" if method == "HEAD" else answer.body))
        connection.deadline = time.monotonic() + _ANSWER_S
        self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)
        self._proceed(connection)

    def _send(self, connection: _Connection) -> None:
        while connection.unsent:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        end_of_answer(connection.socket)
        self._close(connection)

    def _close(self, connection: _Connection, reason: Closed | None = None) -> None:
        if reason is not None:
            self._on_closed(reason)
        if connection.socket in self._selector.get_map():
            self._selector.unregister(connection.socket)
        connection.socket.close()
        self._connections.pop(connection, None)


def _listen(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.settimeout(0)
    return listener
