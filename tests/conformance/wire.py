"""Mode ``wire``: tries every row as a real connection.

A row is allowed if its connection is answered. TCP: the handshake completes. UDP: the datagram arrives and its answer
comes back. SCTP: an INIT arrives and its INIT ACK comes back. A row is denied if there is silence at both ends: nothing
arrives, and the source gets no error. A refusal, a reset or an ICMP error is an outcome of its own.

Theory of operation:

1. All rows of a step are tried at once, in several rounds, each time from another port.
2. A row that should be allowed is tried again in each round until it is answered, so that one lost packet is not a
   failure. A row that should be denied is tried in two rounds.
3. Silence is not decided by a timeout. A veth puts a packet in the backlog queue of the CPU that sends it, which is
   first in, first out (enqueue_to_backlog, net/core/dev.c). After each round, marker packets pass through the queue of
   each CPU, more often than any packet has hops. Then every packet of the round has arrived or was dropped, however
   busy the machine is.
"""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import socket
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from netns import Space, run_in

from enrich.model import Protocol
from tests.conformance import sockets
from tests.conformance.case import Row
from tests.conformance.fleet import Fleet
from tests.conformance.observed import Connection, Observed
from tests.conformance.servers import Place, Servers
from tests.conformance.state import State

_ROUNDS_S: Final = (0.5, 1.0, 2.0, 4.0)
"""The longest time for which each round waits for expected answers."""
_DENIED_ROUNDS: Final = 2
_HOPS: Final = 16
"""More than the veth pairs on the longest path (pod, node, router, node, pod), with a neighbour discovery on it."""
_PORTS: Final = range(10000, 60000)


class Wire:
    """Connects between the namespaces of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._selector = selectors.DefaultSelector()
        self._servers = Servers(self._selector)
        self._marker = run_in(fleet.router, _marker_socket)
        self._sctp_ports = itertools.cycle(_PORTS)
        self._clients: list[socket.socket] = []

    def probe(self, state: State, rows: Sequence[Row]) -> list[str]:
        """Return "allowed", "denied" or another observed outcome for each row."""
        observed = Observed(len(rows))
        names = {end for row in rows for end in (row.source, row.destination)}
        spaces = {name: self._fleet.space(state, name) for name in names}
        places = {name: Place(space.name, state.ip(name)) for name, space in spaces.items()}
        served = {(places[row.destination], row.protocol, row.port) for row in rows}
        self._servers.serve({places[name]: space for name, space in spaces.items()}, served, observed)
        try:
            for number, wait_s in enumerate(_ROUNDS_S):
                due: dict[str, list[int]] = defaultdict(list)
                for index, row in enumerate(rows):
                    if not observed.is_answered(index) if row.allowed else number < _DENIED_ROUNDS:
                        due[row.source].append(index)
                for source, indexes in due.items():
                    attempts = [(index, rows[index], places[rows[index].destination].address) for index in indexes]
                    self._try(spaces[source], places[source], attempts, observed)
                self._receive([i for indexes in due.values() for i in indexes if rows[i].allowed], observed, wait_s)
                self._settle()
        finally:
            self._end()
        return [observed.outcome(index) for index in range(len(rows))]

    def close(self) -> None:
        """Close every socket."""
        self._servers.close()
        self._selector.close()
        self._marker.close()

    def _try(self, space: Space, place: Place, attempts: list[tuple[int, Row, str]], observed: Observed) -> None:
        """Make an attempt at each row of a source."""

        def work() -> None:
            for index, row, destination in attempts:
                match row.protocol:
                    case Protocol.TCP:
                        self._connect(index, place.address, destination, row.port, observed)
                    case Protocol.UDP:
                        self._send_datagram(index, place.address, destination, row.port, observed)
                    case Protocol.SCTP:
                        own = next(self._sctp_ports)
                        observed.expect(Connection(Protocol.SCTP, place.address, own, destination, row.port), index)
                        sockets.send_chunk(self._servers.sctp(place), sockets.INIT, own, destination, row.port)

        run_in(space, work)

    def _connect(self, index: int, source: str, destination: str, port: int, observed: Observed) -> None:
        client = sockets.bound(source, 0, socket.SOCK_STREAM, icmp_errors=True)
        self._clients.append(client)
        attempt = Connection(Protocol.TCP, source, client.getsockname()[1], destination, port)
        observed.expect(attempt, index)
        code = client.connect_ex((destination, port))
        if code not in (0, errno.EINPROGRESS):
            observed.refused(attempt, os.strerror(code))
            return

        def on_done() -> None:
            self._selector.unregister(client)
            # An ICMP error that arrives during connect(2) is only in the error queue, not in SO_ERROR (tcp_v6_err).
            errors = [why for _, _, why in sockets.errors(client)]
            code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if errors or code:
                observed.refused(attempt, errors[0] if errors else os.strerror(code))
            else:
                observed.answered(attempt)

        self._selector.register(client, selectors.EVENT_WRITE, on_done)

    def _send_datagram(self, index: int, source: str, destination: str, port: int, observed: Observed) -> None:
        client = sockets.bound(source, 0, socket.SOCK_DGRAM, icmp_errors=True)
        self._clients.append(client)
        attempt = Connection(Protocol.UDP, source, client.getsockname()[1], destination, port)
        observed.expect(attempt, index)

        def on_answer() -> None:
            self._selector.unregister(client)
            try:
                client.recv(16)
            except OSError as error:
                observed.refused(attempt, error.strerror or str(error))
            else:
                observed.answered(attempt)

        try:
            client.connect((destination, port))
            client.send(b"?")
        except OSError as error:
            observed.refused(attempt, error.strerror or str(error))
            return
        self._selector.register(client, selectors.EVENT_READ, on_answer)

    def _receive(self, expected: list[int], observed: Observed, timeout_s: float) -> None:
        """Handle packets until all expected rows are answered or the time is over."""
        deadline = time.monotonic() + timeout_s
        while expected and (remaining_s := deadline - time.monotonic()) > 0:
            self._handle(remaining_s)
            expected = [index for index in expected if not observed.is_answered(index)]

    def _handle(self, wait_s: float) -> bool:
        events = self._selector.select(wait_s)
        for key, _ in events:
            key.data()
        return bool(events)

    def _settle(self) -> None:
        """Wait until all packets of the round have arrived or were dropped, and handle those that arrived."""
        allowed_cpus = os.sched_getaffinity(0)
        try:
            for cpu in allowed_cpus:
                os.sched_setaffinity(0, {cpu})
                for _ in range(_HOPS):
                    self._marker.send(b".")
                    self._marker.recv(1)
        finally:
            os.sched_setaffinity(0, allowed_cpus)
        while self._handle(0):
            pass

    def _end(self) -> None:
        registered = self._selector.get_map()
        for client in self._clients:
            if client in registered:
                self._selector.unregister(client)
            sockets.abort(client)
        self._clients.clear()
        self._servers.release()


def _marker_socket() -> socket.socket:
    """Return a UDP socket that is connected to itself."""
    marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    marker.bind(("127.0.0.1", 0))
    marker.connect(marker.getsockname())
    return marker
