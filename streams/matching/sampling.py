"""Which connections are in a sample: by a hash of the five-tuple, so that all records of one are, or none.

The two ends of a connection are added up, so that either one may come first. The same function is here twice, over
columns and over a record as JSON; a test compares them.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import numpy as np

from enrich.render.template import PROTOCOLS, WITH_PORTS
from enrich.wire.batch import AGGREGATED
from streams.cli.filters import Flow

_MASK: Final = (1 << 64) - 1
_NUMBERS: Final = {name: number for number, name in PROTOCOLS.items()}
# The constants of splitmix64 (Steele, Lea and Flood, 2014).
_STEP: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_U: Final = np.uint64


def limit(share: float) -> int:
    """The hash below which a connection is in the sample."""
    return min(_MASK, int(share * (_MASK + 1)))


def keeps(flow: Flow, share: float) -> bool:
    """Whether a record's connection is in the sample."""
    connection = flow["connection"]
    source = _end(connection.get("src_ip"), connection.get("src_port", 0))
    destination = _end(connection.get("dest_ip"), connection.get("dest_port", 0))
    name = connection.get("protocol", "0")
    protocol = _NUMBERS.get(name)
    number = int(name) if protocol is None else protocol
    return _mix((source + destination + number) & _MASK) < limit(share)


def _end(ip: str | None, port: int) -> int:
    raw = bytes(16)
    if ip:
        address = ipaddress.ip_address(ip)
        raw = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    high, low = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
    return _mix(low ^ _mix((high + port) & _MASK))


def _mix(value: int) -> int:
    value = (value + _STEP) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def hashes(verdicts: np.ndarray[Any, np.dtype[np.void]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The hash of each row; what a record would not show (a flood's addresses, ICMP's type) counts as zero."""
    shown = (verdicts["flags"] & AGGREGATED) == 0
    sources, destinations = words(verdicts["source"]), words(verdicts["destination"])
    known = sources.any(axis=1) | destinations.any(axis=1)
    protocol = verdicts["protocol"].astype(_U) * shown
    ported = known & shown & np.isin(verdicts["protocol"], tuple(WITH_PORTS))
    ends = _ends(sources * shown[:, None], verdicts["source_port"] * ported)
    ends += _ends(destinations * shown[:, None], verdicts["destination_port"] * ported)
    return _mixed(ends + protocol)


def words(addresses: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """16 bytes an address as two numbers."""
    return np.ascontiguousarray(addresses).view("<u8")


def _ends(
    addresses: np.ndarray[Any, np.dtype[np.uint64]], ports: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return _mixed(addresses[:, 1] ^ _mixed(addresses[:, 0] + ports.astype(_U)))


def _mixed(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    values = values + _U(_STEP)
    values = (values ^ (values >> _U(30))) * _U(_FIRST)
    values = (values ^ (values >> _U(27))) * _U(_SECOND)
    return values ^ (values >> _U(31))
