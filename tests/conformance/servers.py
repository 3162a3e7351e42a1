"""Servers on every port to which a step connects, each in the namespace of its pod or host."""

from __future__ import annotations

import selectors
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from netns import Space, run_in

from enrich.model import Protocol
from tests.conformance import sockets
from tests.conformance.observed import Connection, Observed


class Place(NamedTuple):
    """An address in a network namespace, which is identified by its name; a name is never reused."""

    space: str
    address: str


_Key = TypeVar("_Key", tuple[Place, Protocol], tuple[Place, Protocol, int])


class Servers:
    """The servers of all namespaces. A server stays open over steps for as long as its namespace is in use."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._observed = Observed(0)
        self._listening: dict[tuple[Place, Protocol, int], socket.socket] = {}
        self._sniffing: dict[tuple[Place, Protocol], socket.socket] = {}
        self._accepted: list[socket.socket] = []

    def serve(
        self, spaces: Mapping[Place, Space], ports: Iterable[tuple[Place, Protocol, int]], observed: Observed
    ) -> None:
        """Serve these ports and report arriving packets to ``observed``. Servers of other places are closed."""
        self._observed = observed
        self._close_others(self._listening, spaces)
        self._close_others(self._sniffing, spaces)
        missing: dict[Place, list[tuple[Protocol, int]]] = defaultdict(list)
        for place, protocol, port in ports:
            if protocol is not Protocol.SCTP and (place, protocol, port) not in self._listening:
                missing[place].append((protocol, port))
        for place, space in spaces.items():
            if missing[place] or (place, Protocol.SCTP) not in self._sniffing:
                run_in(space, partial(self._open, place, missing[place]))

    def sctp(self, place: Place) -> socket.socket:
        """Return the place's socket for SCTP, which its clients use too."""
        return self._sniffing[place, Protocol.SCTP]

    def release(self) -> None:
        """Close the accepted connections."""
        for accepted in self._accepted:
            sockets.abort(accepted)
        self._accepted.clear()

    def close(self) -> None:
        """Close all servers."""
        self.serve({}, (), Observed(0))

    def _open(self, place: Place, ports: Iterable[tuple[Protocol, int]]) -> None:
        if (place, Protocol.SCTP) not in self._sniffing:
            self._sniffing[place, Protocol.SCTP] = self._on(sockets.sctp(place.address), self._on_sctp, place)
            self._sniffing[place, Protocol.TCP] = self._on(sockets.sniffing(place.address), self._on_syn, place)
        for protocol, port in ports:
            if protocol is Protocol.TCP:
                server = self._on(sockets.listening(place.address, port), self._on_connection)
            else:
                server = self._on(sockets.bound(place.address, port, socket.SOCK_DGRAM), self._on_datagram, place, port)
            self._listening[place, protocol, port] = server

    def _on(self, server: socket.socket, handler: Callable[..., None], *about: object) -> socket.socket:
        self._selector.register(server, selectors.EVENT_READ, partial(handler, server, *about))
        return server

    def _close_others(self, table: dict[_Key, socket.socket], spaces: Mapping[Place, Space]) -> None:
        for key in [key for key in table if key[0] not in spaces]:
            self._close(table.pop(key))

    def _close(self, ended: socket.socket) -> None:
        self._selector.unregister(ended)
        ended.close()

    def _on_syn(self, sniffer: socket.socket, place: Place) -> None:
        for source, source_port, port in sockets.opened(sniffer):
            self._observed.arrived(Connection(Protocol.TCP, source, source_port, place.address, port))

    def _on_connection(self, server: socket.socket) -> None:
        # The connection is kept until the end of the step: closing it would reset it before the client's select(2).
        self._accepted.extend(sockets.accepted(server))

    def _on_datagram(self, server: socket.socket, place: Place, port: int) -> None:
        for data, sender in sockets.datagrams(server):
            self._observed.arrived(Connection(Protocol.UDP, *sender, place.address, port))
            sockets.send(server, data, sender)

    def _on_sctp(self, end: socket.socket, place: Place) -> None:
        for packet, destination, why in sockets.errors(end):
            own, port = sockets.ports_of(packet)
            self._observed.refused(Connection(Protocol.SCTP, place.address, own, destination, port), why)
        for chunk, peer, peer_port, own in sockets.chunks(end):
            if chunk == sockets.INIT:
                self._observed.arrived(Connection(Protocol.SCTP, peer, peer_port, place.address, own))
                sockets.send_chunk(end, sockets.INIT_ACK, own, peer, peer_port)
            elif chunk == sockets.INIT_ACK:
                self._observed.answered(Connection(Protocol.SCTP, place.address, own, peer, peer_port))
