"""Servers in the pods and in the outside host: TCP that answers or resets, UDP that answers."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from netns import Space, listen, open_socket

ANSWERING: Final = (8001, 8101)
"""TCP ports that send back what they receive."""
RESETTING: Final = 8002
"""The TCP port that resets a connection as soon as it has received something."""
REFUSING: Final = 8003
"""The TCP port that has no listener."""
UDP_ANSWERING: Final = (9001, 9101)
UDP_REFUSING: Final = 9002
"""The UDP port that has no listener."""
_IDLE_S: Final = 3.0
"""A connection that is silent for so long is ended: its client has gone, and policy has kept that from the server."""
_PATIENCE_S: Final = 180.0
_DATAGRAMS: Final = 10_000
"""So many are answered at once at most: more than a socket has room for."""
USER_TIMEOUT_MS: Final = 1500
"""For so long TCP sends again what is not acknowledged, so that a connection that policy has cut ends soon."""


def abort_when_closed(connection: socket.socket) -> None:
    """Have a connection end by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Servers:
    """All servers, on one thread."""

    def __init__(self) -> None:
        self._selector, self._stop = selectors.DefaultSelector(), threading.Event()
        self._lock = threading.RLock()
        self._hosts: dict[str, list[socket.socket]] = {}
        self._turned, self._turns = threading.Condition(), 0
        self._connections: dict[socket.socket, tuple[str, str, float]] = {}
        """The host, the client's address and the time of the last message of each connection."""
        self._thread = threading.Thread(target=self._run, name="servers")
        self._thread.start()

    def add(self, name: str, space: Space) -> None:
        """Start the servers of a host."""
        made: list[tuple[socket.socket, Callable[..., None]]] = []
        for family in (4, 6):
            made += [(listen(space, family, port), self._accept) for port in (*ANSWERING, RESETTING)]
            for port in UDP_ANSWERING:
                server = open_socket(space, family, socket.SOCK_DGRAM)
                if family == 6:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                server.bind(("::" if family == 6 else "0.0.0.0", port))  # noqa: S104 - a namespace of the test's own
                made.append((server, self._answer))
        with self._lock:
            self._hosts[name] = [one for one, _ in made]
            for one, work in made:
                one.settimeout(0)
                self._selector.register(one, selectors.EVENT_READ, (work, name))

    def remove(self, name: str) -> None:
        """End the servers of a host, and its connections by RST."""
        with self._lock:
            for one, (host, _, _) in list(self._connections.items()):
                if host == name:
                    self._end(one)
            for one in self._hosts.pop(name):
                self._close(one)

    def end_from(self, addresses: Collection[str]) -> None:
        """End by RST what is left of the connections from a host, before another one has its addresses."""
        with self._lock:
            for one, (_, client, _) in list(self._connections.items()):
                if client in addresses:
                    self._end(one)

    def catch_up(self) -> None:
        """Wait until everything that has arrived by now is answered: on a busy machine that takes seconds."""
        with self._turned:
            # The turn that is under way may have looked already.
            until = self._turns + 2
            if not self._turned.wait_for(lambda: self._turns >= until, _PATIENCE_S):
                raise RuntimeError("the servers do not answer any more")

    def close(self) -> None:
        """End all servers."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            for name in list(self._hosts):
                self.remove(name)

    def _run(self) -> None:
        while not self._stop.is_set():
            events = self._selector.select(0.1)
            with self._lock:
                for one, (_, _, last) in list(self._connections.items()):
                    if time.monotonic() - last > _IDLE_S:
                        self._end(one)
                for key, _ in events:
                    # What was ended meanwhile may have left its number to another one.
                    registered = self._selector.get_map().get(key.fd)
                    if registered and registered.fileobj is key.fileobj:
                        work, name = key.data
                        # A client has ended it, or TCP has given it up.
                        with contextlib.suppress(OSError):
                            work(key.fileobj, name)
            with self._turned:
                self._turns += 1
                self._turned.notify_all()

    def _accept(self, server: socket.socket, name: str) -> None:
        connection, client = server.accept()
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        self._connections[connection] = name, client[0], time.monotonic()
        work = self._reset if server.getsockname()[1] == RESETTING else self._echo
        self._selector.register(connection, selectors.EVENT_READ, (work, name))

    def _echo(self, connection: socket.socket, name: str) -> None:
        try:
            data = connection.recv(4096)
            if data:
                connection.send(data)
                self._connections[connection] = *self._connections[connection][:2], time.monotonic()
            else:
                self._connections.pop(connection)
                self._close(connection)
        except OSError:
            self._end(connection)

    def _reset(self, connection: socket.socket, name: str) -> None:
        self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        """End a connection by RST."""
        self._connections.pop(connection)
        abort_when_closed(connection)
        self._close(connection)

    def _answer(self, server: socket.socket, name: str) -> None:
        for _ in range(_DATAGRAMS):
            data, address = server.recvfrom(9000)
            with contextlib.suppress(OSError):  # what an ICMP error of an earlier one has left
                server.sendto(data, address)

    def _close(self, one: Any) -> None:
        self._selector.unregister(one)
        one.close()
