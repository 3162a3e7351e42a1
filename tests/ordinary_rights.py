"""Lets a test read files as a user who is not root does."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Final

_VERSION_3: Final = 0x20080522
_OVERRIDES: Final = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root reads what its mode forbids."""


@contextlib.contextmanager
def ordinary_rights() -> Iterator[None]:
    """Let the modes of files and folders count for this thread, and for those that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    # Of each half of the capabilities: effective, permitted, inheritable.
    before = (ctypes.c_uint32 * 6)()
    _done(libc.capget(header, before))
    _done(libc.capset(header, (ctypes.c_uint32 * 6)(before[0] & ~_OVERRIDES, *before[1:])))
    try:
        yield
    finally:
        _done(libc.capset(header, before))


def _done(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
