"""Files in which a process leaves state for its next start. Any of them may be damaged, and none may stop that start.

A power cut leaves zeros or half a file, a full disk an empty one, and somebody's mistake a folder, a pipe or another
user's file of that name. What a process does must not depend on such a file, so:

1. A file is read only if it is a regular file of the process's own user, and not larger than such a file ever is.
2. One that cannot be used is renamed to ``<name>.damaged``, in place of an earlier one, for people to look at. That is
   logged and counted, and the process goes on as if the file were missing.
3. A file is replaced as a whole. What a failed attempt has written is removed, because it takes room on a full disk.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger("kubeweir")

MAX_BYTES: Final = 256 << 20
"""The state of a node is some megabytes."""
_DAMAGED: Final = ".damaged"
_NEW: Final = ".new"

_lock = threading.Lock()
_damaged: Counter[str] = Counter()


class DamagedError(Exception):
    """A file of state cannot be used. The message says why."""


def read_state(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file. Raises FileNotFoundError if it is missing, DamagedError if it cannot be used."""
    try:
        # Without O_NONBLOCK, a pipe of this name would stop the process.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"it cannot be opened: {error.strerror}") from error
    try:
        _check(os.fstat(descriptor), max_bytes)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)
    except OSError as error:
        raise DamagedError(f"it cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def set_aside(path: Path, what: str, why: str, consequence: str, *, to: Path | None = None) -> None:
    """Rename a file that cannot be used, log that, and count it.

    ``what`` is the sort of file, ``consequence`` what follows from its loss. ``to`` is where it goes instead of
    ``<name>.damaged``. Where it cannot be renamed it stays, and a later :func:`replace_state` may replace it.
    """
    kept = to or path.with_name(f"{path.name}{_DAMAGED}")
    try:
        path.replace(kept)
        where = str(kept)
    except OSError as error:
        where = f"{path} ({error.strerror})"
    count_damaged(what)
    log.error("a file of state cannot be read, and is set aside", file=str(path), reason=why, kept_as=where,
              consequence=consequence)  # fmt: skip


def count_damaged(what: str) -> None:
    """Count a damaged file of this sort."""
    with _lock:
        _damaged[what] += 1


def damaged_files() -> Mapping[str, int]:
    """Return how many files this process has found damaged, by sort."""
    with _lock:
        return dict(_damaged)


def replace_state(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Write a file that only its owner may read, in place of the last one. Raises OSError; then that one stays."""
    new = path.with_name(f"{path.name}{_NEW}")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    try:
        # O_EXCL: nothing that somebody else has put there is opened.
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            write_whole(descriptor, content)
        finally:
            os.close(descriptor)
        if mtime_ns is not None:
            os.utime(new, ns=(mtime_ns, mtime_ns))
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def write_whole(descriptor: int, block: bytes) -> None:
    """Write all bytes of a block. Raises OSError; a part may be written then."""
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _check(found: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise DamagedError("it is not a regular file")
    if found.st_uid != os.geteuid():
        raise DamagedError(f"it belongs to the user {found.st_uid}, and this process runs as {os.geteuid()}")
    if found.st_size > max_bytes:
        raise DamagedError(f"it has {found.st_size} bytes, more than such a file ever has")
