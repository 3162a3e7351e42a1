"""BPF links by their pins: what a pin holds, moving it to another program, removing it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from probe.kernel import bpf

DEVICE_GONE: Final = (errno.ENODEV, errno.ENOLINK)
"""ENOLINK: the link exists, but its device was removed (kernel/bpf/tcx.c, tcx_link_update)."""


def link_at(pin: Path, index: int) -> bpf.LinkInfo | None:
    """Return a pinned link that is attached to the interface with this index, None if there is none."""
    try:
        with bpf.closing(bpf.get(pin)) as link:
            info = bpf.link_info(link)
    except FileNotFoundError:
        return None
    return info if info.ifindex == index else None


def move_link(pin: Path, program: int) -> None:
    """Give a pinned link another program, unless its device is gone. Raises OSError."""
    try:
        with bpf.closing(bpf.get(pin)) as link:
            bpf.link_update(link, program)
    except OSError as error:
        if error.errno not in DEVICE_GONE:
            raise


def remove_link(pin: Path) -> None:
    """Detach a pinned link, then remove its pin.

    Without the last reference the kernel would detach the link too, but later: bpffs frees the pin's inode after a
    grace period, and bpf_link_put() leaves the rest to a work queue. Until then an attach of the same program
    to the same device fails (EEXIST).
    """
    try:
        with bpf.closing(bpf.get(pin)) as link:
            bpf.link_detach(link)
    except FileNotFoundError:
        return
    pin.unlink()
