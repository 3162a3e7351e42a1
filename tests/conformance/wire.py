"""Mode ``wire``: every row as a real connection, and what arrives.

TCP: the handshake completes. UDP: the datagram arrives, and its answer comes back. SCTP: an INIT arrives, and its INIT
ACK comes back. A denied row is silence at both ends: nothing arrives, and the source is told nothing; a refusal, a
reset or an ICMP error is seen as what it is.

All rows of a step are asked at once, in rounds, each time from another port. A row that is to get through is asked
again in each round until it is answered, so that a packet that was lost does not count; one that is not, in two rounds.
Silence is not left to a clock. A veth hands a packet to a queue of the CPU that sends it, first in, first out
(enqueue_to_backlog, net/core/dev.c). So after each round something goes through the queue of each CPU, more often than
any packet has hops to go: whatever was on its way has arrived then, or is gone, however busy the machine is.
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
"""For how long each round waits for the answers that are to come."""
_DENIED_ROUNDS: Final = 2
_HOPS: Final = 16
"""More than the veths on the longest way (pod, node, router, node, pod), one neighbour's discovery included."""
_PORTS: Final = range(10000, 60000)


class Wire:
    """Sends between the namespaces of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._selector = selectors.DefaultSelector()
        self._servers = Servers(self._selector)
        self._marker = run_in(fleet.router, _to_itself)
        self._sctp_ports = itertools.cycle(_PORTS)
        self._clients: list[socket.socket] = []

    def probe(self, state: State, rows: Sequence[Row]) -> list[str]:
        """For each row "allowed", "denied", or what else was seen."""
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
                    asked = [(index, rows[index], places[rows[index].destination].address) for index in indexes]
                    self._ask(spaces[source], places[source], asked, observed)
                self._receive([i for indexes in due.values() for i in indexes if rows[i].allowed], observed, wait_s)
                self._settle()
        finally:
            self._end()
        return [observed.seen(index) for index in range(len(rows))]

    def close(self) -> None:
        """End every socket."""
        self._servers.close()
        self._selector.close()
        self._marker.close()

    def _ask(self, space: Space, place: Place, asked: list[tuple[int, Row, str]], observed: Observed) -> None:
        """An attempt at each row of a source."""

        def work() -> None:
            for index, row, destination in asked:
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
        client = sockets.bound(source, 0, socket.SOCK_STREAM, told_errors=True)
        self._clients.append(client)
        attempt = Connection(Protocol.TCP, source, client.getsockname()[1], destination, port)
        observed.expect(attempt, index)
        code = client.connect_ex((destination, port))
        if code not in (0, errno.EINPROGRESS):
            observed.refused(attempt, os.strerror(code))
            return

        def on_done() -> None:
            self._selector.unregister(client)
            # An ICMP error that comes while connect(2) is still at work is in the queue only (tcp_v6_err).
            told = [why for _, _, why in sockets.errors(client)]
            code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if told or code:
                observed.refused(attempt, told[0] if told else os.strerror(code))
            else:
                observed.answered(attempt)

        self._selector.register(client, selectors.EVENT_WRITE, on_done)

    def _send_datagram(self, index: int, source: str, destination: str, port: int, observed: Observed) -> None:
        client = sockets.bound(source, 0, socket.SOCK_DGRAM, told_errors=True)
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

    def _receive(self, wanted: list[int], observed: Observed, wait_s: float) -> None:
        """Handle what comes, until all that are wanted are answered, or the time is over."""
        deadline = time.monotonic() + wait_s
        while wanted and (left := deadline - time.monotonic()) > 0:
            self._handle(left)
            wanted = [index for index in wanted if not observed.is_answered(index)]

    def _handle(self, wait_s: float) -> bool:
        events = self._selector.select(wait_s)
        for key, _ in events:
            key.data()
        return bool(events)

    def _settle(self) -> None:
        """Return when what was on its way has arrived, and has been handled."""
        mine = os.sched_getaffinity(0)
        try:
            for cpu in mine:
                os.sched_setaffinity(0, {cpu})
                for _ in range(_HOPS):
                    self._marker.send(b".")
                    self._marker.recv(1)
        finally:
            os.sched_setaffinity(0, mine)
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


def _to_itself() -> socket.socket:
    marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    marker.bind(("127.0.0.1", 0))
    marker.connect(marker.getsockname())
    return marker
