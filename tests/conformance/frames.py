"""Mode ``run``: asks the loaded program about every row by BPF_PROG_RUN, for speed.

A row goes through the program at its source's interface and the one at its destination's, on the node of each with that
node's maps, as a frame of the row's family and protocol. Every frame has a source port and a sequence of its own, so
that what the program remembers of one row decides no other.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from enrich.model import Protocol
from probe.kernel import bpf
from tests.conformance.case import Row
from tests.conformance.fleet import Fleet, Host
from tests.conformance.state import State
from tests.kernel.frames import ipv4, ipv6, sctp, udp

_TC_ACT_SHOT: Final = 2
_UPLINK: Final = 1 << 20
"""As the interface that a packet came in by: not a pod's, and not the 0 of what the node itself sends."""
_PORTS: Final = range(10000, 60000)

_Run = tuple[int, bytes, bytes]
"""A program, a frame, and the ``__sk_buff`` that goes with it."""


class Frames:
    """Asks the programs of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ports = itertools.cycle(_PORTS)
        self._sequences = itertools.count(1)

    def probe(self, state: State, rows: Sequence[Row]) -> list[str]:
        """For each row "allowed" or "denied"."""
        indexes = {name: self._index(state, name) for name in state.pods}
        served = {row.port for row in rows}
        runs: dict[str, list[tuple[int, _Run]]] = defaultdict(list)
        for number, row in enumerate(rows):
            frame = self._frame(row, state.ip(row.source), state.ip(row.destination), served)
            source, destination = state.pod(row.source), state.pod(row.destination)
            if source is not None:
                host, index = self._fleet.host(source.node), indexes[row.source]
                runs[source.node].append((number, (host.maps.programs["pod_egress"], frame, _context(index, index))))
            if destination is not None:
                host, index = self._fleet.host(destination.node), indexes[row.destination]
                came_by = self._came_by(state, row.source, destination.node, indexes)
                program = host.maps.programs["pod_ingress"]
                runs[destination.node].append((number, (program, frame, _context(index, came_by))))
        denied: set[int] = set()
        for node, asked in runs.items():
            denied |= self._run(self._fleet.host(node), asked)
        return ["denied" if number in denied else "allowed" for number in range(len(rows))]

    def close(self) -> None:
        """Nothing is held."""

    def _run(self, host: Host, asked: list[tuple[int, _Run]]) -> set[int]:
        """The rows that the program drops. An interface's index means the namespace of the thread that asks."""

        def work() -> set[int]:
            return {
                number
                for number, (program, frame, context) in asked
                if bpf.program_run(program, frame, 1, context)[0] == _TC_ACT_SHOT
            }

        return host.network.run(work)

    def _index(self, state: State, name: str) -> int:
        pod = state.pod(name)
        return self._fleet.host(pod.node).pods[pod.ip][1].index if pod is not None else 0

    @staticmethod
    def _came_by(state: State, source: str, node: str, indexes: dict[str, int]) -> int:
        """``ingress_ifindex`` at a pod's interface: 0 of what the pod's own node sends."""
        if state.node_of(source) != node:
            return _UPLINK
        return indexes.get(source, 0)

    def _frame(self, row: Row, source: str, destination: str, served: set[int]) -> bytes:
        own = next(port for port in self._ports if port not in served)
        body = _transport(row, own, next(self._sequences) & 0xFFFFFFFF)
        return _head(source, destination, row.protocol, len(body)) + body


@functools.lru_cache(4096)
def _head(source: str, destination: str, protocol: Protocol, length: int) -> bytes:
    """Ethernet and IP headers for a body; all rows of two ends have the same."""
    if ":" in source:
        return bytes(12) + b"\x86\xdd" + ipv6(source, destination, protocol, bytes(length))[:40]
    return bytes(12) + b"\x08\x00" + ipv4(source, destination, protocol, bytes(length))[:20]


def _transport(row: Row, port: int, sequence: int) -> bytes:
    match row.protocol:
        case Protocol.TCP:
            # 5 words of header, the flag SYN.
            return struct.pack("!HHIIBBHHH", port, row.port, sequence, 0, 5 << 4, 2, 64240, 0, 0)
        case Protocol.UDP:
            return udp(row.port, port)
        case Protocol.SCTP:
            return sctp(row.port, port)


def _context(index: int, came_by: int) -> bytes:
    """``struct __sk_buff``: ingress_ifindex at offset 36, ifindex at 40."""
    return struct.pack("=36xII148x", came_by, index)
