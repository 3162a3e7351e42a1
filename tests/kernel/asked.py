"""Asks the loaded program by BPF_PROG_RUN: a frame of a new connection."""

from __future__ import annotations

import itertools
import struct
from typing import Final

from enrich.model import Protocol
from enrich.policy.matching import Direction
from probe.kernel import bpf
from tests.kernel.frames import ipv4, ipv6, sctp, udp
from tests.kernel.rig import Rig

SHOT: Final = 2
"""TC_ACT_SHOT: dropped."""
_UPLINK: Final = 1
"""An ``ingress_ifindex`` that is neither a pod's nor the 0 of what the node itself sends: a device older than pods'."""
_source_ports = itertools.cycle(range(10_000, 60_000))


def frame(source: str, destination: str, protocol: Protocol, port: int) -> bytes:
    """The first of a connection that was never seen before."""
    own = next(_source_ports)
    match protocol:
        case Protocol.TCP:
            # 5 words of header, the flag SYN.
            body = struct.pack("!HHIIBBHHH", own, port, own, 0, 5 << 4, 2, 64240, 0, 0)
        case Protocol.UDP:
            body = udp(port, own)
        case Protocol.SCTP:
            body = sctp(port, own)
    if ":" in source:
        return bytes(12) + b"\x86\xdd" + ipv6(source, destination, protocol, body)
    return bytes(12) + b"\x08\x00" + ipv4(source, destination, protocol, body)


def passes(rig: Rig, index: int, direction: Direction, sent: bytes) -> bool:
    """Whether the program lets it through. Call it in the node's namespace, where the interface's index means it."""
    program = rig.maps.programs["pod_egress" if direction is Direction.EGRESS else "pod_ingress"]
    came_by = index if direction is Direction.EGRESS else _UPLINK
    # struct __sk_buff: ingress_ifindex at offset 36, ifindex at 40.
    return bpf.program_run(program, sent, 1, struct.pack("=36xII148x", came_by, index))[0] != SHOT
