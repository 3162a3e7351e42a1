"""Netlink messages as bytes: this module packs requests, unpacks answers, and knows no kind of message.

A message is a header (length, kind, flags, sequence, port), a body that begins with a structure of the kind, and
attributes: length, type, value, each padded to four bytes (netlink(7)).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

REQUEST, DUMP, CHANGE = 0x0001, 0x0301, 0x0005
"""NLM_F_REQUEST alone, for one object; with NLM_F_DUMP, for all; with NLM_F_ACK, for a change that is acknowledged."""
NESTED: Final = 0x8000
"""NLA_F_NESTED: the value of an attribute is attributes."""
_TYPE_MASK: Final = 0x3FFF
_ERROR, _DONE = 2, 3
_HEADER: Final = 16
_ATTRIBUTE_HEADER: Final = 4
_BLOCK_BYTES: Final = 1 << 17


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded."""
    return struct.pack("=HH", _ATTRIBUTE_HEADER + len(value), kind) + value + bytes(-len(value) % 4)


def number_attribute(kind: int, value: int) -> bytes:
    """Return an attribute whose value is a signed number of 32 bits."""
    return attribute(kind, struct.pack("=i", value))


def attributes(block: bytes) -> dict[int, bytes]:
    """Return the value of each attribute by its type, without the flags NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
    return {kind & _TYPE_MASK: value for _, kind, value in _units(block, "=HH", _ATTRIBUTE_HEADER)}


def text(value: bytes | None) -> str:
    """Return the text of an attribute; empty for one that is missing."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def messages(block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and body of each message in one read of a socket."""
    for _, kind, rest in _units(block, "=IH", _HEADER):
        yield kind, rest


def request(
    asking: socket.socket, kind: int, flags: int, body: bytes, sequence: int = 1
) -> Iterator[tuple[int, bytes]]:
    """Send a request, and yield kind and body of each message that answers it. Raises OSError.

    Messages with another sequence number answer a request that has timed out; they are skipped."""
    asking.send(struct.pack("=IHHII", _HEADER + len(body), kind, flags, sequence, 0) + body)
    while True:
        for answered, answer, content in _units(asking.recv(_BLOCK_BYTES), "=IHHI", _HEADER):
            if answered != sequence:
                continue
            if answer == _DONE:
                return
            if answer == _ERROR:
                code = -struct.unpack_from("=i", content)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return  # the acknowledgement of a change
            yield answer, content
            if flags == REQUEST:
                return


def _units(block: bytes, header: str, header_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the last field, the second field and the content of each message or attribute in a block.

    Both begin with their length. One whose length cannot be ends the block."""
    at = 0
    while at + header_bytes <= len(block):
        length, kind, *more = struct.unpack_from(header, block, at)
        if length < header_bytes:
            return
        yield (more[-1] if more else 0), kind, block[at + header_bytes : at + length]
        at += (length + 3) & ~3
