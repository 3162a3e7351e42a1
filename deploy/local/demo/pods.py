"""The demo's pods: namespaces with veth pairs, the servers in them, and the connections between them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from netns import Net, Space, listen, open_socket, ping

PREFIX = "weir-demo"
NODE_IPS = ("192.0.2.1", "2001:db8:1::1")
WEB, API, DB, REPORT, OUTSIDE = "web", "api", "db", "report", "outside"
ADDRESSES = {
    WEB: ("10.244.0.10", "fd44::10"),
    API: ("10.244.0.20", "fd44::20"),
    DB: ("10.244.0.30", "fd44::30"),
    REPORT: ("10.244.0.40", "fd44::40"),
    OUTSIDE: ("203.0.113.10", "2001:db8:f::10"),
}
POD_NAMES = {
    WEB: "shop/web-7d9c5b6f4-x2x9p",
    API: "shop/api-5f6bd7c9d8-k4m2t",
    DB: "data/db-0",
    REPORT: "batch/report-29401200-7wq5h",
}
SCANNED = range(7000, 7020)
_TCP_SERVERS = ((WEB, 8080), (API, 8080), (DB, 5432), (OUTSIDE, 443))
_ANSWER = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n"
_PATIENCE_S, _MOMENT_S = 6.0, 0.6
"""For an answer that policy lets through, and for one that it does not."""


@dataclass(frozen=True)
class Attempt:
    """A connection that the demo makes, and the expected outcome."""

    source: str
    destination: str
    protocol: str
    """tcp, udp or icmp."""
    port: int
    allowed: bool
    why: str
    policies: tuple[str, ...] = ()
    """Policies that a record about it must name: all that allow it, or all that isolate the pod."""


ATTEMPTS = (
    Attempt(OUTSIDE, WEB, "tcp", 8080, True, "a customer", ("shop/web-from-outside",)),
    Attempt(WEB, API, "tcp", 8080, True, "the web asks the API", ("shop/api-from-web",)),
    Attempt(API, DB, "tcp", 5432, True, "the API asks the database", ("data/db-from-api", "data/db-from-shop")),
    Attempt(REPORT, OUTSIDE, "udp", 53, True, "the report resolves a name", ("batch/only-dns",)),
    Attempt(DB, OUTSIDE, "icmp", 0, True, "the database pings out: no policy for its egress"),
    Attempt(OUTSIDE, API, "tcp", 8080, False, "a customer at the API", ("shop/api-from-web", "shop/default-deny")),
    Attempt(WEB, DB, "tcp", 5432, False, "the web at the database", ("shop/default-deny", "shop/web-to-api")),
    Attempt(REPORT, DB, "tcp", 5432, False, "the report at the database", ("batch/only-dns",)),
    Attempt(REPORT, OUTSIDE, "tcp", 443, False, "the report phones home", ("batch/only-dns",)),
    Attempt(OUTSIDE, WEB, "icmp", 0, False, "a ping from outside", ("shop/default-deny", "shop/web-from-outside")),
)


def _patience_s(attempt: Attempt) -> float:
    return _PATIENCE_S if attempt.allowed else _MOMENT_S


class Pods:
    """The namespaces, and servers on threads of this process whose sockets live in them."""

    def __init__(self) -> None:
        self._net = Net(PREFIX)
        self._spaces: dict[str, Space] = {}
        self._sockets: list[socket.socket] = []
        self._served: set[tuple[str, int, str]] = set()
        """Connections that reached a server: server name, port, client address."""

    def make(self) -> None:
        """Make the namespaces and start the servers in them."""
        node = self._net.node(NODE_IPS)
        for name, addresses in ADDRESSES.items():
            self._spaces[name] = self._net.pod(node, *addresses, name=name)
        for family in (4, 6):
            for name, port in _TCP_SERVERS:
                self._serve(self._serve_http, name, listen(self._spaces[name], family, port))
            resolver = open_socket(self._spaces[OUTSIDE], family, socket.SOCK_DGRAM)
            resolver.bind((self._spaces[OUTSIDE].address(family), 53))
            self._serve(self._serve_udp, OUTSIDE, resolver)

    def attempt(self, attempt: Attempt, family: int, patience_s: float = _MOMENT_S) -> bool:
        """Make the connection and return whether it got an answer in time."""
        source = self._spaces[attempt.source]
        address = self._spaces[attempt.destination].address(family)
        if attempt.protocol == "icmp":
            return ping(source, address, patience_s)
        kind = socket.SOCK_STREAM if attempt.protocol == "tcp" else socket.SOCK_DGRAM
        with open_socket(source, family, kind) as client:
            client.settimeout(patience_s)
            try:
                client.connect((address, attempt.port))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return bool(client.recv(100))
            except OSError:
                return False

    def attempt_all(self, attempts: Sequence[Attempt]) -> list[str]:
        """Make the connections over both families, and return what did not go as policy says."""
        return [
            f"{one.why} over IPv{family} {'got through' if answered else 'got no answer'}"
            for one in attempts
            for family in (4, 6)
            if (answered := self.attempt(one, family, _patience_s(one))) != one.allowed
        ]

    def attempt_at_once(self, attempts: Sequence[Attempt]) -> dict[tuple[Attempt, int], bool]:
        """Make the connections over both families, all at once, and return which got an answer."""
        tried = [(one, family) for one in attempts for family in (4, 6)]
        with ThreadPoolExecutor(len(tried)) as threads:
            answered = threads.map(lambda it: self.attempt(it[0], it[1], _patience_s(it[0])), tried)
            return dict(zip(tried, answered, strict=True))

    def scan(self) -> None:
        """Let one pod try many ports of the outside host at once, without waiting for any."""
        address = self._spaces[OUTSIDE].address(4)
        for port in SCANNED:
            with open_socket(self._spaces[REPORT], 4, socket.SOCK_STREAM) as client:
                client.setblocking(False)
                client.connect_ex((address, port))

    def reached_against_policy(self) -> list[str]:
        """Return the denied attempts that reached a server nevertheless, whatever the client saw."""
        return [
            attempt.why
            for attempt in ATTEMPTS
            if not attempt.allowed
            and any((attempt.destination, attempt.port, source) in self._served for source in ADDRESSES[attempt.source])
        ]

    def close(self) -> None:
        """End the servers and delete the namespaces."""
        for server in self._sockets:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        self._net.close()

    def _serve(self, answer: Callable[[str, socket.socket], None], name: str, server: socket.socket) -> None:
        server.settimeout(None)
        self._sockets.append(server)
        threading.Thread(target=answer, args=(name, server), daemon=True).start()

    def _serve_http(self, name: str, server: socket.socket) -> None:
        port = server.getsockname()[1]
        with contextlib.suppress(OSError):
            while True:
                connection, client = server.accept()
                self._served.add((name, port, client[0]))
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(2)
                    connection.recv(4096)
                    connection.sendall(_ANSWER)

    def _serve_udp(self, name: str, server: socket.socket) -> None:
        port = server.getsockname()[1]
        with contextlib.suppress(OSError):
            while True:
                data, client = server.recvfrom(4096)
                if client is None:
                    return  # shut down
                self._served.add((name, port, client[0]))
                server.sendto(data, client)
