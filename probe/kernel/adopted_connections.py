"""Entries of the table of connections that user space writes, from what nf_conntrack knows (``bpf/adoption.h``).

An entry is marked ADOPTED, and its epoch 0 is never in force: the programs judge it by policy at its next packet, in
the direction in which the connection was opened. Say pod 10.244.1.7 (endpoint 3) has connected to 10.96.0.10:80 and NAT
chose pod 10.244.1.9:8080 (endpoint 4). The two pods' entries are::

    {local 10.244.1.7:40000, remote 10.96.0.10:80, endpoint 3}     EGRESS, other 10.244.1.9:8080
    {local 10.244.1.9:8080, remote 10.244.1.7:40000, endpoint 4}   INGRESS

Each gets a place in the table (:mod:`probe.kernel.stored_connections`), and who opened the connection pays for it:
above, endpoint 3 pays for both. So no pod has more entries than its budget allows, however many connections
nf_conntrack knows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from enrich.wire.batch import Reason, Verdict
from probe.kernel.layout import CONNECTION, CONNECTION_KEY, LOCAL_NODE, LOCAL_NONE, Config, ConnectionState
from probe.kernel.maps import Maps
from probe.kernel.stored_connections import OUTSIDE, OWN, Payer, store_connection
from probe.node.conntrack import Ends, Tracked

EGRESS, INGRESS = 0, 1
"""``enum direction`` of ``bpf/layout.h``."""
_PENDING: Final = 0
_TIMEOUT_NS, _TIMEOUT_UNANSWERED_NS = 6 * 3600 * 10**9, 120 * 10**9
"""As in ``bpf/connections.h``, for TCP. To take a shorter-lived entry for a valid one costs a look-up."""


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A local pod, as the maps have it on the side in force."""

    number: int
    addresses: frozenset[bytes]


class AdoptedConnections:
    """Makes and writes entries. It is used by one thread."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    def installed(self) -> dict[int, int]:
        """Return the endpoints in the maps: interface index to number."""
        indexes = [int.from_bytes(key, "little") for key in self._maps["endpoints"].items()]
        return {index: pod.number for index in indexes if (pod := self.pod_at(index))}

    def pod_at(self, index: int) -> LocalPod | None:
        """Return the pod at an interface, None if there is none."""
        value = self._maps["endpoints"].get(index.to_bytes(4, "little"))
        if value is None:
            return None
        side = value["side"][self._side()]
        addresses = frozenset(address.tobytes() for address in side["address"] if address.any())
        return LocalPod(int(side["number"]), addresses) if side["number"] else None

    def pods_of(self, tracked: Tracked) -> dict[bytes, LocalPod]:
        """Return the local pods at the ends of a connection, by address."""
        indexes = {end: self._ifindex_of(end) for end in (tracked.original.source, tracked.reply.source)}
        return {end: pod for end, index in indexes.items() if index and (pod := self.pod_at(index))}

    def entries(self, tracked: Tracked, pods: Mapping[bytes, LocalPod]) -> Iterator[tuple[bytes, bytes, Payer]]:
        """Yield key, value and payer of the entry of each end that is in ``pods``."""
        original, reply = tracked.original, tracked.reply
        state = ConnectionState.REPLIED if tracked.answered else ConnectionState(0)
        if original.source in pods:
            number = pods[original.source].number
            backend = (reply.source, reply.source_port)
            value = entry(EGRESS, state | ConnectionState.EXIT)
            if backend != (original.destination, original.destination_port):
                state_dialled = state | ConnectionState.EXIT | ConnectionState.DIALLED
                # No exit sees what DNAT sends to the node itself: the programs wait for the node's answer.
                if self._ifindex_of(reply.source) == LOCAL_NODE:
                    value = entry(EGRESS, state_dialled, verdict=_PENDING)
                else:
                    value = entry(EGRESS, state_dialled, backend)
            yield _key(number, tracked.protocol, original), value, Payer(number, OWN)
        # The node's own packets need no entry, and a source address alone never makes a packet the node's.
        opener = self._ifindex_of(original.source)
        if reply.source in pods and opener != LOCAL_NODE:
            number = pods[reply.source].number
            source = (original.source, original.source_port)
            is_hidden = source != (reply.destination, reply.destination_port)
            value = entry(INGRESS, state, source if is_hidden and opener else None)
            pod = self.pod_at(opener) if opener else None
            payer = Payer(pod.number, OWN) if pod else Payer(number, OUTSIDE)
            yield _key(number, tracked.protocol, reply), value, payer

    def has_entry(self, key: bytes, *, seen_open: bool = False) -> bool:
        """Return whether the connection has an entry that has not expired.

        ``seen_open``: the programs must have seen its first packet, so that they know its direction for certain.
        """
        found = self._maps["connections"].get(key)
        if found is None or (seen_open and int(found["reason"]) == Reason.ADOPTED):
            return False
        limit = _TIMEOUT_NS if found["state"] & ConnectionState.REPLIED else _TIMEOUT_UNANSWERED_NS
        return time.monotonic_ns() - int(found["last_ns"]) < limit

    def write(self, key: bytes, value: bytes, payer: Payer) -> bool:
        """Write an entry in place of any other. Return False if there is no place for it. Raises OSError."""
        return store_connection(self._maps, key, value, payer)

    def _ifindex_of(self, address: bytes) -> int | None:
        """Return the interface of the local pod with this address, LOCAL_NODE for the node's own, None for others."""
        value = self._maps["local_addresses"].get(address)
        index = LOCAL_NONE if value is None else int(value["ifindex"][self._side()])
        return None if index == LOCAL_NONE else index

    def _side(self) -> int:
        return self._maps.config(Config.EPOCH) & 1


def entry(direction: int, state: int, other: tuple[bytes, int] | None = None, verdict: int = Verdict.DENY) -> bytes:
    """Return an entry's value. ``other`` is the peer that NAT hides. Until it is judged, it lets nothing pass."""
    value = np.zeros(1, CONNECTION)
    value["last_ns"] = time.monotonic_ns()
    value["direction"], value["verdict"], value["reason"] = direction, verdict, Reason.ADOPTED
    if other:
        state |= ConnectionState.OTHER
        value["other"], value["other_port"] = np.frombuffer(other[0], "u1"), other[1]
    value["state"] = state | ConnectionState.ADOPTED
    return value.tobytes()


def _key(endpoint: int, protocol: int, sent: Ends) -> bytes:
    """Return the key of a connection of the pod that sends ``sent``."""
    key = np.zeros(1, CONNECTION_KEY)
    key["local"], key["remote"] = np.frombuffer(sent.source, "u1"), np.frombuffer(sent.destination, "u1")
    key["local_port"], key["remote_port"] = sent.source_port, sent.destination_port
    key["endpoint"], key["protocol"] = endpoint, protocol
    return key.tobytes()
