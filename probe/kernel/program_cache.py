"""A folder of compiled programs, so that a start of the probe need not compile: that takes seconds of CPU.

What is in the folder is loaded into the kernel. Therefore only the probe's own user may write it, and a file is used
only if it surely is what was stored: its owner, its mode, its checksum and the fingerprint inside must be right. Any
other file counts as missing, which is logged: the programs are compiled, and stored again.

    file = first line, SHA-256 of what follows (32 bytes), then in msgpack: fingerprint, programs and maps

A disk that is full, read-only or does not answer costs the compilation, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from enrich.runtime.in_time import Started
from enrich.runtime.private import make_private_folder, open_private
from probe.kernel.bytecode import Bytecode

log = structlog.get_logger("kubeweir.probe")

T = TypeVar("T")

_FIRST_LINE: Final = b"kubeweir programs 1\n"
"""The number changes with the structs that are stored."""
_MAX_BYTES: Final = 16 << 20
_MAX_FILES: Final = 16
"""A change of version or of a size needs another file, and a rollback the one before."""
_OWN_NAME: Final = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]{8}")
"""A fingerprint, or the name of a file that is being written."""
_PATIENCE_S: Final = 5.0
"""A compilation takes about as long."""


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fingerprint: str
    compiled: Bytecode


_decode: Final = msgspec.msgpack.Decoder(_Stored).decode


class UnusableError(Exception):
    """A file cannot be used. The message says why."""


class ProgramCache:
    """The compiled programs in one folder, by fingerprint (:func:`probe.kernel.compiler.fingerprint`)."""

    def __init__(self, folder: Path, most: int = _MAX_FILES) -> None:
        """Use ``folder``, which is made when something is stored. It keeps the ``most`` files that were used last."""
        self._folder = folder
        self._most = most

    def load(self, fingerprint: str) -> Bytecode | None:
        """Return the programs with this fingerprint, None if they are not stored or cannot be used."""
        try:
            return _in_time(lambda: self._read(fingerprint))
        except FileNotFoundError:
            return None
        except (OSError, UnusableError) as error:
            log.warning(
                "compiled programs cannot be used, and are compiled again",
                file=str(self._folder / fingerprint), error=str(error),
            )  # fmt: skip
            return None

    def store(self, fingerprint: str, compiled: Bytecode) -> None:
        """Store programs, and remove the files that were not used for longest."""
        content = msgspec.msgpack.encode(_Stored(fingerprint, compiled))
        try:
            _in_time(lambda: self._write(fingerprint, _FIRST_LINE + hashlib.sha256(content).digest() + content))
        except OSError as error:
            log.warning(
                "compiled programs cannot be stored: the next start compiles again",
                folder=str(self._folder), error=str(error),
            )  # fmt: skip

    def remove(self, fingerprint: str) -> None:
        """Forget programs."""
        with contextlib.suppress(OSError):
            _in_time(lambda: (self._folder / fingerprint).unlink(missing_ok=True))

    def _read(self, fingerprint: str) -> Bytecode:
        """Read a file. Raises OSError, UnusableError."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _check_owner("its folder", os.fstat(folder))
            # Without O_NONBLOCK, a pipe of this name would stop the probe.
            number = os.open(fingerprint, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(number, "rb") as file:
            found = os.fstat(number)
            _check_owner("it", found)
            if not stat.S_ISREG(found.st_mode):
                raise UnusableError("it is not a regular file")
            content = file.read(_MAX_BYTES + 1)
            with contextlib.suppress(OSError):
                os.utime(number)
        return _checked(content, fingerprint)

    def _write(self, fingerprint: str, content: bytes) -> None:
        make_private_folder(self._folder)
        unfinished = self._folder / f".{fingerprint}.{secrets.token_hex(4)}"
        try:
            with open(unfinished, "xb", opener=open_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._folder / fingerprint)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        # An unfinished file that a killed probe has left is removed in its turn. What else is there is not ours.
        own = [path for path in self._folder.iterdir() if _OWN_NAME.fullmatch(path.name)]
        by_use = sorted(own, key=_last_use_ns, reverse=True)
        for path in by_use[self._most :]:
            path.unlink(missing_ok=True)


def _check_owner(what: str, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise UnusableError(f"{what} belongs to the user {found.st_uid}, and the probe runs as {os.geteuid()}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnusableError(f"{what} has the mode {stat.S_IMODE(found.st_mode):04o}: other users may write it")


def _checked(content: bytes, fingerprint: str) -> Bytecode:
    """Return the programs in a file's content. Raises UnusableError."""
    head = len(_FIRST_LINE)
    checksum, body = content[head : head + 32], content[head + 32 :]
    if content[:head] != _FIRST_LINE or hashlib.sha256(body).digest() != checksum:
        raise UnusableError("it is damaged, or another version has written it")
    try:
        stored = _decode(body)
    except msgspec.DecodeError as error:
        raise UnusableError(f"its content is not what this version writes: {error}") from error
    if stored.fingerprint != fingerprint or not stored.compiled.is_whole():
        raise UnusableError("it holds other programs than its name says")
    return stored.compiled


def _last_use_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _in_time(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, or raise what it raises. Raises TimeoutError if the disk takes too long."""
    return Started("program-cache", work).result(_PATIENCE_S)
