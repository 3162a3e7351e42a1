"""Stores connections from user space, each with a place in the table that an account pays for (``bpf/places.h``).

A program does it (``add_connection`` in ``bpf/policy.c``), because user space cannot change a count while programs
change it too.
"""

from __future__ import annotations

import struct
import threading
from typing import Final, NamedTuple

from probe.kernel import bpf
from probe.kernel.maps import Maps

OWN, OUTSIDE = 0, 1
"""``ACCOUNT_OWN`` and ``ACCOUNT_OUTSIDE`` of ``bpf/layout.h``."""
_FRAME: Final = bytes(16)
_PAYER: Final = struct.Struct("=II")
"""The last fields of ``struct add_request``, whose first one is the frame."""
_LOCK: Final = threading.Lock()
"""On kernels that preempt the program, a second thread on its CPU would change what it works on."""


class Payer(NamedTuple):
    """The account that pays for a place."""

    endpoint: int
    account: int


def store_connection(maps: Maps, key: bytes, value: bytes, payer: Payer) -> bool:
    """Store an entry in place of any other under its key. Return False if there is no place. Raises OSError."""
    request = _FRAME + key + value + _PAYER.pack(*payer)
    with _LOCK:
        stored, _ = bpf.program_run(maps.programs["add_connection"], request)
    return stored != 0
