"""Ports of the loopback interface for the servers of the demo, the local cluster and the tests."""

from __future__ import annotations

import contextlib
import secrets
import socket

_FIRST, _LAST = 12_000, 29_999
"""A server that is restarted must find its port free, so these are not the ports that the kernel gives to clients (by
default from 32768 on, net.ipv4.ip_local_port_range). The kubelet's and those of NodePorts are left out, too."""


def free_ports(number: int) -> int:
    """Return the first of ``number`` free ports in a row. Raises RuntimeError.

    They are chosen at random, because another process may be choosing at the same time.
    """
    for _ in range(100):
        first = _FIRST + secrets.randbelow(_LAST - _FIRST + 2 - number)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + number):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise RuntimeError(f"there are no {number} free ports in a row on 127.0.0.1")


def free_port() -> int:
    """Return a free port. Raises RuntimeError."""
    return free_ports(1)
