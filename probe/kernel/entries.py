"""Pack keys and values of the policy maps with :mod:`struct`, which is far faster than numpy for single entries.

``tests/kernel/test_layout.py`` compares the dtypes of :mod:`probe.kernel.layout` with the loaded maps;
``tests/probe/kernel/test_entries.py`` compares these functions with the dtypes.
"""

from __future__ import annotations

import struct
from typing import Final

_ADDRESS_KEY: Final = struct.Struct("<I16s")
_PEER: Final = struct.Struct("<IIBB2x")
_POLICY_KEY: Final = struct.Struct("<III")
_POLICY_ENTRY: Final = struct.Struct("<IIBB2x")
_PORT_KEY: Final = struct.Struct("<IIB2sx")
_PORT_ENTRY: Final = struct.Struct("<IBB2x")

Peer = tuple[int, int]
"""Identity and kind."""


def address_key(address: bytes, prefix: int) -> bytes:
    """Pack a key of ``addresses``."""
    return _ADDRESS_KEY.pack(prefix, address)


def prefix_of(key: bytes) -> tuple[int, int]:
    """Unpack a key of ``addresses``: the prefix's length, and the address as a number."""
    length, address = _ADDRESS_KEY.unpack(key)
    return length, int.from_bytes(address, "big")


def peer(first: Peer, second: Peer) -> bytes:
    """Pack a value of ``addresses``: the peer on side 0 and on side 1."""
    return _PEER.pack(first[0], second[0], first[1], second[1])


def peer_on(value: bytes, side: int) -> Peer:
    """Unpack one side of a value of ``addresses``."""
    found = _PEER.unpack(value)
    return found[side], found[2 + side]


def policy_key(number: int, direction: int, identity: int) -> bytes:
    """Pack a key of ``policy_entries``: the policy set's number, a direction, the peer's identity."""
    return _POLICY_KEY.pack(number, identity, direction)


def policy_entry(port_list: int, rule: int, verdict: int, reason: int) -> bytes:
    """Pack a value of ``policy_entries``."""
    return _POLICY_ENTRY.pack(port_list, rule, verdict, reason)


def port_key(port_list: int, protocol: int, port: int, bits: int) -> bytes:
    """Pack a key of ``port_entries``: the ports that share the upper ``bits`` bits of ``port``."""
    return _PORT_KEY.pack(40 + bits, port_list, protocol, port.to_bytes(2, "big"))


def port_entry(verdict: int, reason: int, rule: int) -> bytes:
    """Pack a value of ``port_entries``."""
    return _PORT_ENTRY.pack(rule, verdict, reason)
