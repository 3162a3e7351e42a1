"""Which port of a verdict is a server's, so that an ephemeral one never makes a combination."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from enrich.render.interning import Int64Array
from enrich.wire.batch import AGGREGATED, Reason

FIRST_EPHEMERAL_PORT: Final = 32_768
"""Linux gives clients ports from here on (``net.ipv4.ip_local_port_range``)."""
_TCP, _DATAGRAM, _ICMP = 1, 2, 3
_KINDS: Final = np.zeros(256, np.uint8)
_KINDS[6], _KINDS[[17, 132]], _KINDS[[1, 58]] = _TCP, _DATAGRAM, _ICMP
_SYN, _SYN_OR_ACK = 0x02, 0x12


def server_ports(verdicts: np.ndarray[Any, Any]) -> Int64Array:
    """Return the destination's port of each verdict; 0 where there is none, or where it may be a client's.

    A packet's destination is the server if the packet opens the connection. A late reply that meets no entry of
    conntrack is judged, too, and its destination is the client. A port below the ephemeral range is a server's; above,
    the verdict must show who opened: by a SYN, by the node's conntrack, or by the Service that was dialled."""
    kinds = _KINDS.take(verdicts["protocol"])
    ports: Int64Array = verdicts["destination_port"].astype(np.int64)
    without = (kinds == 0) | (verdicts["flags"] & AGGREGATED != 0)
    if without.any():
        ports[without] = 0
    if len(ports) and ports.max() >= FIRST_EPHEMERAL_PORT:
        high = (ports >= FIRST_EPHEMERAL_PORT) & (kinds != _ICMP)
        sure = (kinds == _TCP) & (verdicts["tcp_flags"] & _SYN_OR_ACK == _SYN)
        sure |= (verdicts["reason"] == Reason.ADOPTED) | (verdicts["dialled_port"] != 0)
        # Both ends of some protocols, such as WireGuard, use the same port.
        sure |= verdicts["source_port"] == verdicts["destination_port"]
        ports[high & ~sure] = 0
    return ports
