"""Entries of the policy maps to and from bytes, many and fast: :mod:`struct` in place of numpy's scalars.

``tests/kernel/test_layout.py`` pins the dtypes of :mod:`probe.kernel.layout` to the loaded maps;
``tests/probe/test_entries.py`` pins these to the dtypes.
"""

from __future__ import annotations

import struct
from typing import Final

_ADDRESS_KEY: Final = struct.Struct("<I16s")
_PEER: Final = struct.Struct("<IIBB2x")
_ROW_KEY: Final = struct.Struct("<III")
_ROW: Final = struct.Struct("<IIBB2x")
_PORT_KEY: Final = struct.Struct("<IIB2sx")
_ANSWER: Final = struct.Struct("<IBB2x")

Peer = tuple[int, int]
"""Identity and kind."""


def address_key(address: bytes, prefix: int) -> bytes:
    """Of ``addresses``."""
    return _ADDRESS_KEY.pack(prefix, address)


def prefix_of(key: bytes) -> tuple[int, int]:
    """The length of an address key's prefix, and the address as a number."""
    length, address = _ADDRESS_KEY.unpack(key)
    return length, int.from_bytes(address, "big")


def peer(first: Peer, second: Peer) -> bytes:
    """What an address stands for, by side."""
    return _PEER.pack(first[0], second[0], first[1], second[1])


def peer_on(value: bytes, side: int) -> Peer:
    """What an address stands for on a side."""
    found = _PEER.unpack(value)
    return found[side], found[2 + side]


def row_key(number: int, direction: int, identity: int) -> bytes:
    """Of ``rows``: the set's number, a direction, an identity."""
    return _ROW_KEY.pack(number, identity, direction)


def row(ports: int, rule: int, verdict: int, reason: int) -> bytes:
    """Of ``rows``."""
    return _ROW.pack(ports, rule, verdict, reason)


def port_key(row: int, protocol: int, port: int, bits: int) -> bytes:
    """Of ``ports``: the ports of a row that share the upper ``bits`` bits of ``port``."""
    return _PORT_KEY.pack(40 + bits, row, protocol, port.to_bytes(2, "big"))


def answer(verdict: int, reason: int, rule: int) -> bytes:
    """Of ``ports``."""
    return _ANSWER.pack(rule, verdict, reason)
