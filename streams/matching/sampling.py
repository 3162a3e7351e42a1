"""Which connections are in a sample: a hash of the five-tuple decides, so that all records of a connection agree.

1. Each end is hashed separately: address and port to 64 bits.
2. The hashes of both ends and the protocol are added and hashed again. A sum has no order, so the record that the
   destination's policy made hashes as the record that the source's policy made does.
3. The connection is in a sample of the share ``s`` if its hash is below ``s * 2**64``. So a connection that is in a
   sample of 0.01 is in every larger one too, on every worker and after every restart.

The function is written twice: over columns (:func:`hashes`) for the enricher, and for one record (:func:`keeps`) for
consumers of JSON. A test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from enrich.render.template import PROTOCOLS, WITH_PORTS
from enrich.wire.batch import AGGREGATED
from enrich.wire.flow import Connection
from enrich.wire.mapped_address import packed_address

_MASK: Final = (1 << 64) - 1
_NUMBERS: Final = {name: number for number, name in PROTOCOLS.items()}
# The constants of splitmix64 (Steele, Lea and Flood, 2014).
_INCREMENT: Final = 0x9E3779B97F4A7C15
_MULTIPLIER_1: Final = 0xBF58476D1CE4E5B9
_MULTIPLIER_2: Final = 0x94D049BB133111EB
_U: Final = np.uint64


def limit(share: float) -> int:
    """Return the hash below which a connection is in a sample of this share."""
    return min(_MASK, int(share * (_MASK + 1)))


def keeps(connection: Connection, share: float) -> bool:
    """Return whether a connection is in a sample of this share."""
    source = _hash_end(connection.src_ip, connection.src_port or 0)
    destination = _hash_end(connection.dest_ip, connection.dest_port or 0)
    name = connection.protocol or "0"
    protocol = _NUMBERS.get(name)
    number = int(name) if protocol is None else protocol
    return _mix((source + destination + number) & _MASK) < limit(share)


def _hash_end(ip: str, port: int) -> int:
    raw = packed_address(ip) if ip else bytes(16)
    high, low = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
    return _mix(low ^ _mix((high + port) & _MASK))


def _mix(value: int) -> int:
    """Return the next output of splitmix64 for a state."""
    value = (value + _INCREMENT) & _MASK
    value = ((value ^ (value >> 30)) * _MULTIPLIER_1) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLIER_2) & _MASK
    return value ^ (value >> 31)


def hashes(verdicts: np.ndarray[Any, np.dtype[np.void]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the hash of each verdict. What its record does not show counts as zero, as it does for :func:`keeps`: the
    addresses of an aggregated verdict, and the type of ICMP, which the kernel puts in place of the ports."""
    shown = (verdicts["flags"] & AGGREGATED) == 0
    sources, destinations = words(verdicts["source"]), words(verdicts["destination"])
    known = sources.any(axis=1) | destinations.any(axis=1)
    protocol = verdicts["protocol"].astype(_U) * shown
    ported = known & shown & np.isin(verdicts["protocol"], tuple(WITH_PORTS))
    ends = _hash_ends(sources * shown[:, None], verdicts["source_port"] * ported)
    ends += _hash_ends(destinations * shown[:, None], verdicts["destination_port"] * ported)
    return _mix_all(ends + protocol)


def words(addresses: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return addresses of 16 bytes as two numbers each: the first eight bytes and the last, little-endian."""
    return np.ascontiguousarray(addresses).view("<u8")


def _hash_ends(
    addresses: np.ndarray[Any, np.dtype[np.uint64]], ports: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return _mix_all(addresses[:, 1] ^ _mix_all(addresses[:, 0] + ports.astype(_U)))


def _mix_all(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    values = values + _U(_INCREMENT)
    values = (values ^ (values >> _U(30))) * _U(_MULTIPLIER_1)
    values = (values ^ (values >> _U(27))) * _U(_MULTIPLIER_2)
    return values ^ (values >> _U(31))
