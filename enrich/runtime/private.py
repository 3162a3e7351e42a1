"""Files and folders that only their owner may read.

The run folder and the spool name pods, policies and connections of every tenant of a node. The modes are set, not only
asked for at creation: a folder may exist from an older version, or from kubelet, which makes those of a hostPath 0755.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_SHARED_DEPTH = 2
"""/run, /tmp and /var are never made private, even if a setting names them."""


def make_private_folder(path: Path, files: str = "") -> None:
    """Create a folder and its parents, and let only its owner into it, also if it exists already.

    ``files`` is a pattern of files in it that become private as well, if it is not empty.

    A folder that others use too (``/run``, or any with the sticky bit) keeps its mode, and so does what belongs to
    another user. Raises OSError.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in path.glob(files) if files else ():
        make_private(file)
    if not (path.stat().st_mode & stat.S_ISVTX or len(path.resolve().parts) <= _SHARED_DEPTH):
        _restrict(path, 0o700)


def make_private(path: Path) -> None:
    """Let only its owner read and write a file, if it exists."""
    if path.is_file():
        _restrict(path, 0o600)


def open_private(path: str | Path, flags: int) -> int:
    """Open a file that is created 0600: an ``opener`` for :func:`open`."""
    return os.open(path, flags, 0o600)


def _restrict(path: Path, mode: int) -> None:
    found = path.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
