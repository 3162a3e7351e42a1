"""Archives that are the same, byte for byte, whenever they are made of the same files."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tar(into: BinaryIO, root: Path, names: Iterable[str], time: int) -> None:
    """Write the files, folders and links of these names below ``root`` as a tar, in the order of their names.

    All belong to root, none is newer than ``time``, and no file has a set-user-ID or set-group-ID bit.
    """
    with tarfile.open(fileobj=into, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(names):
            path = root / name
            found = path.lstat()
            entry = tarfile.TarInfo(name)
            entry.mtime = time if path.is_dir() and not path.is_symlink() else min(int(found.st_mtime), time)
            entry.mode = stat.S_IMODE(found.st_mode) & (
                0o1777 if path.is_dir() else 0o777
            )  # the sticky bit of /tmp stays
            entry.uname = entry.gname = "root"
            if path.is_symlink():
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, os.readlink(path), 0o777  # noqa: PTH115
                archive.addfile(entry)
            elif path.is_dir():
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = found.st_size
                with path.open("rb") as file:
                    archive.addfile(entry, file)


def write_tar_gz(path: Path, root: Path, names: Iterable[str], time: int) -> str:
    """Write such a tar, compressed; return the SHA-256 of what was compressed."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        counted = _Hashing(packed)
        write_tar(counted, root, names, time)  # type: ignore[arg-type]  # tarfile only writes to it, and asks where it is
        return counted.hash.hexdigest()


class _Hashing(io.RawIOBase):
    """Hands on what is written, and hashes it."""

    def __init__(self, into: BinaryIO | gzip.GzipFile) -> None:
        self._into = into
        self._size = 0
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:  # type: ignore[override]  # as tarfile calls it
        self.hash.update(data)
        self._size += len(data)
        return self._into.write(data)

    def tell(self) -> int:
        return self._size
