"""What an address to listen on says: host and port, and whether only this machine reaches it."""

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
    """Return whether an address is of this machine only. A name may mean another one tomorrow; localhost may not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
