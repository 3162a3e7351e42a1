"""IP addresses as 16 bytes, IPv4 as IPv4-mapped IPv6 (``::ffff:10.0.0.1``, RFC 4291, section 2.5.5.2).

The kernel's maps and verdicts hold every address in this form, so that one code path serves both families.
"""

from __future__ import annotations

import ipaddress
from typing import Final

IPV4_BITS: Final = 96
"""Length of the prefix ``::ffff:0:0/96``, which contains every mapped IPv4 address and nothing else."""
_IPV4_PREFIX: Final = bytes(10) + b"\xff\xff"


def packed_address(ip: str) -> bytes:
    """Return the 16 bytes of an address in text. Raises ValueError if the text is not an address."""
    return packed(ipaddress.ip_address(ip))


def packed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """Return the 16 bytes of a parsed address."""
    return address.packed if address.version == 6 else _IPV4_PREFIX + address.packed


def is_ipv4(raw: bytes) -> bool:
    """Return whether 16 bytes are an IPv4-mapped address."""
    return raw[:12] == _IPV4_PREFIX


def address_text(raw: bytes) -> str:
    """Return the text of 16 bytes: dotted IPv4 for a mapped address, else IPv6 as RFC 5952 writes it."""
    if raw[:12] == _IPV4_PREFIX:
        return "%d.%d.%d.%d" % tuple(raw[12:])  # noqa: UP031 - the fastest way for four bytes
    return str(ipaddress.IPv6Address(raw))
