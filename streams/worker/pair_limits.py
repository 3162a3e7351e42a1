"""Bounds on the combinations of one hour: beyond them, verdicts count in a coarser combination, and are not lost.

A pod that scans ports or addresses would make a combination of each. So within an hour, a workload has 1,000 peers
outside the cluster by address, and further ones by block; two ends have 128 ports, and further ones count as port 0; a
workload has a tenth of the worker's combinations, and the others count with any peer. So one tenant's scan does not
change how the connections of another are counted.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from enrich.wire.pair import PairEnd, PairKey

MAX_WORLD_PEERS: Final = 1_000
MAX_PORTS: Final = 128
NOTED_BYTES: Final = 256 << 20
"""What a worker takes beside its counts, about, by the default limit: to tell combinations of an hour apart (180 MB,
measured with 1,000,000 addresses in an hour), and to write all of them at once (80 MB)."""
WORKLOADS_SHARE: Final = 10
"""A workload has a tenth of the combinations of a worker."""
_COARSE_BITS: Final = {4: 24, 6: 64}
_ANY: Final = PairEnd(unknown=True, coarse=True)

Folded = Literal["addresses", "ports", "workload", "worker", "invalid"]
"""Why a combination was counted in a coarser one."""


class HourLimits:
    """Counts the distinct combinations, peers and ports that one worker has met in the current hour."""

    def __init__(self, limit: int, on_folded: Callable[[Folded], None]) -> None:
        """``limit``: combinations that are told apart in an hour."""
        self._limit, self._on_folded = limit, on_folded
        self.begin_hour()

    def begin_hour(self) -> None:
        """Forget what was met in the last hour."""
        self._addresses: dict[PairEnd, set[str]] = {}
        self._ports: dict[tuple[object, ...], set[int]] = {}
        self._keys: set[PairKey] = set()
        self._of_workload: Counter[PairEnd] = Counter()

    def note(self, why: Folded) -> None:
        """Count something that is counted in a coarser combination."""
        self._on_folded(why)

    def bounded(self, key: PairKey) -> PairKey:
        """Return the combination in which verdicts of this one count."""
        key = self._bounded_port(self._bounded_address(key))
        if key in self._keys:
            return key
        workload = key.subject
        if len(self._keys) >= self._limit:
            self._on_folded("worker")
            return any_peer(key, PairEnd(namespace=workload.namespace, unknown=True))
        if self._of_workload[workload] >= self._limit // WORKLOADS_SHARE:
            self._on_folded("workload")
            return any_peer(key, workload)
        self._keys.add(key)
        self._of_workload[workload] += 1
        return key

    def _bounded_address(self, key: PairKey) -> PairKey:
        block = key.peer.block
        if not block:
            return key
        seen = self._addresses.setdefault(key.subject, set())
        if block in seen:
            return key
        if len(seen) < MAX_WORLD_PEERS:
            seen.add(block)
            return key
        self._on_folded("addresses")
        return msgspec.structs.replace(key, peer=PairEnd(block=coarse(block), coarse=True))

    def _bounded_port(self, key: PairKey) -> PairKey:
        if not key.port:
            return key
        seen = self._ports.setdefault((key.subject, key.peer, key.direction, key.protocol), set())
        if key.port in seen:
            return key
        if len(seen) < MAX_PORTS:
            seen.add(key.port)
            return key
        self._on_folded("ports")
        return msgspec.structs.replace(key, port=0)


def any_peer(key: PairKey, subject: PairEnd) -> PairKey:
    """Return the combination with any peer, protocol and port."""
    return PairKey(subject=subject, peer=_ANY, direction=key.direction, protocol=0, verdict=key.verdict,
                   reason=key.reason)  # fmt: skip


def coarse(block: str) -> str:
    """Return the /24, or the /64, of an address."""
    address = ipaddress.ip_interface(block)
    return str(ipaddress.ip_network((address.ip, _COARSE_BITS[address.version]), strict=False))
