"""Splits an address to listen on into host and port, and says whether only this machine reaches it."""

from __future__ import annotations

import ipaddress
from typing import Final

MAX_PORT: Final = 65_535


def split_address(address: str) -> tuple[str, int] | None:
    """Return host and port of host:port, the host without brackets, empty for a port alone; None for another text."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        return None
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host. Names other than localhost may get another address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
