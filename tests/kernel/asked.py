"""Run the loaded program by BPF_PROG_RUN on the first frame of a new connection."""

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
"""TC_ACT_SHOT, which drops the packet."""
_UPLINK: Final = 1
"""An ``ingress_ifindex`` of a device older than all pods'; 0 would mean that the node itself sends."""
_source_ports = itertools.cycle(range(10_000, 60_000))


def frame(source: str, destination: str, protocol: Protocol, port: int) -> bytes:
    """Return the first frame of a connection from a port that was not used lately."""
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
    """Return whether the programs let it pass. Call it in the node's namespace, where interface indexes are valid.

    What a pod sends meets an exit, which checks and logs connections to other pods of the node.
    """
    if direction is Direction.INGRESS:
        return _passes(rig, "pod_ingress", sent, _UPLINK, index)
    sent = rig.own_frame(index, sent)
    return _passes(rig, "pod_egress", sent, index, index) and _passes(rig, "exit_ethernet", sent, index, _UPLINK)


def _passes(rig: Rig, program: str, sent: bytes, came_by: int, index: int) -> bool:
    # struct __sk_buff: ingress_ifindex at offset 36, ifindex at 40.
    context = struct.pack("=36xII148x", came_by, index)
    return bpf.program_run(rig.maps.programs[program], sent, 1, context)[0] != SHOT
