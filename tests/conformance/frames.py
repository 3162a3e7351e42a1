"""Mode ``run``: runs the loaded program for every row by BPF_PROG_RUN, which is fast.

For each row, a frame of its family and protocol runs through the program at the source's interface and through the one
at the destination's, on the node of each and with that node's maps. Every frame has its own source port and sequence
number, so that the connection state of one row does not decide another.
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
"""``ingress_ifindex`` of a packet from another node: not a pod's interface, and not 0 as for the node's own packets."""
_PORTS: Final = range(10000, 60000)

_Run = tuple[int, bytes, bytes]
"""A program, a frame, and the ``__sk_buff`` that goes with it."""


class Frames:
    """Runs the programs of a fleet on frames."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ports = itertools.cycle(_PORTS)
        self._sequences = itertools.count(1)

    def probe(self, state: State, rows: Sequence[Row]) -> list[str]:
        """Return "allowed" or "denied" for each row."""
        indexes = {name: self._index(state, name) for name in state.pods}
        served = {row.port for row in rows}
        runs: dict[str, list[tuple[int, _Run]]] = defaultdict(list)
        for number, row in enumerate(rows):
            frame = self._frame(row, state.ip(row.source), state.ip(row.destination), served)
            source, destination = state.pod(row.source), state.pod(row.destination)
            if source is not None:
                host, index = self._fleet.host(source.node), indexes[row.source]
                sent = frame[:6] + _source_of(host, index) + frame[12:]
                runs[source.node].append((number, (host.maps.programs["pod_egress"], sent, _context(index, index))))
            if destination is not None:
                host, index = self._fleet.host(destination.node), indexes[row.destination]
                ingress_index = self._ingress_index(state, row.source, destination.node, indexes)
                program = host.maps.programs["pod_ingress"]
                runs[destination.node].append((number, (program, frame, _context(index, ingress_index))))
        denied: set[int] = set()
        for node, node_runs in runs.items():
            denied |= self._run(self._fleet.host(node), node_runs)
        return ["denied" if number in denied else "allowed" for number in range(len(rows))]

    def close(self) -> None:
        """Do nothing: no resources are open."""

    def _run(self, host: Host, runs: list[tuple[int, _Run]]) -> set[int]:
        """Return the rows that the program drops.

        The kernel looks up the interface's index in the calling thread's namespace, so this runs on a thread of the
        node.
        """

        def work() -> set[int]:
            return {
                number
                for number, (program, frame, context) in runs
                if bpf.program_run(program, frame, 1, context)[0] == _TC_ACT_SHOT
            }

        return host.network.run(work)

    def _index(self, state: State, name: str) -> int:
        pod = state.pod(name)
        return self._fleet.host(pod.node).pods[pod.ip][1].index if pod is not None else 0

    @staticmethod
    def _ingress_index(state: State, source: str, node: str, indexes: dict[str, int]) -> int:
        """Return ``ingress_ifindex`` at a pod's interface; it is 0 for packets of the pod's own node."""
        if state.node_of(source) != node:
            return _UPLINK
        return indexes.get(source, 0)

    def _frame(self, row: Row, source: str, destination: str, served: set[int]) -> bytes:
        own = next(port for port in self._ports if port not in served)
        body = _transport(row, own, next(self._sequences) & 0xFFFFFFFF)
        return _head(source, destination, row.protocol, len(body)) + body


def _source_of(host: Host, index: int) -> bytes:
    """Return the link-layer address from which the pod at an interface must send."""
    own = host.maps["link_addresses"].get(index.to_bytes(4, "little"))
    return bytes(6) if own is None else own["address"].tobytes()


@functools.lru_cache(4096)
def _head(source: str, destination: str, protocol: Protocol, length: int) -> bytes:
    """Return Ethernet and IP headers for a body; they are the same for all rows of two ends."""
    if ":" in source:
        return bytes(12) + b"\x86\xdd" + ipv6(source, destination, protocol, bytes(length))[:40]
    return bytes(12) + b"\x08\x00" + ipv4(source, destination, protocol, bytes(length))[:20]


def _transport(row: Row, port: int, sequence: int) -> bytes:
    match row.protocol:
        case Protocol.TCP:
            # The header has 5 words and the flag SYN.
            return struct.pack("!HHIIBBHHH", port, row.port, sequence, 0, 5 << 4, 2, 64240, 0, 0)
        case Protocol.UDP:
            return udp(row.port, port)
        case Protocol.SCTP:
            return sctp(row.port, port)


def _context(index: int, ingress_index: int) -> bytes:
    """Return a ``struct __sk_buff``, which has ingress_ifindex at offset 36 and ifindex at 40."""
    return struct.pack("=36xII148x", ingress_index, index)
