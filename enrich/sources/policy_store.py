"""A folder that holds the last state of policies of an optional kind, as the server sent them, a file for each.

A probe that starts while the server does not serve the kind would otherwise open what these policies close.

A disk may be full, or not answer for minutes. Policy does not wait for it. At the start, what the disk has not given
after some seconds is loaded when it comes. Later, :meth:`PolicyStore.save` only notes what is to be stored, and a
thread writes it. If an object changes again meanwhile, only its newest state is written, so that what waits is never
more than one state of each object. What cannot be written is tried again, and :attr:`PolicyStore.problem` says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from enrich.runtime.in_time import Started
from enrich.runtime.private import make_private_folder, open_private
from enrich.runtime.state_file import DamagedError, count_damaged, read_state

log = structlog.get_logger("kubeweir.source")

_MAX_BYTES: Final = 4 << 20
"""etcd takes no object of this size."""
_UNFINISHED: Final = ".unfinished"
"""No object has this name: a name begins with a letter or a digit."""
_RETRY_S: Final = 1.0
_PATIENCE_S = 10.0
"""A disk that has not stored a state for so long is reported."""
_READ_S = 5.0
"""How long the start waits for the disk."""


class Stored(msgspec.Struct):
    """What is stored of an object."""

    definition: str
    """The UID of the CustomResourceDefinition under which the object was seen."""
    object: msgspec.Raw
    cluster: str = ""
    """The UID of the namespace kube-system in the object's cluster; empty if it was not known."""


_decode: Final = msgspec.json.Decoder(Stored).decode


class _Found(NamedTuple):
    """What a folder holds."""

    contents: dict[str, bytes]
    wrong: dict[str, str]
    """Why files cannot be read."""


class PolicyStore:
    """The stored objects of one kind. One thread changes them; any thread may ask for the problem."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._latest: dict[str, bytes] = {}
        """What each file holds, or will hold once it is written."""
        self._unwritten: dict[str, bytes | None] = {}
        """Contents by file; None for a file that is to be removed."""
        self._unwritten_since: float | None = None
        self._failed: dict[str, str] = {}
        """Why files could not be written; of an empty name: why the folder could not be read."""
        self._unreadable: set[str] = set()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading: Started[_Found] | None = None
        """What reads the folder; None before and afterwards."""

    @property
    def problem(self) -> str | None:
        """Why a restart may lose the last state of policies; None if it does not."""
        failed = sorted({*tuple(self._failed.values())})
        if failed:
            return f"policies cannot be stored in {self._folder} ({', '.join(failed)}): a restart may lose them"
        since = self._unwritten_since
        if since is not None and time.monotonic() - since > _PATIENCE_S:
            return (
                f"the disk of {self._folder} has stored nothing for {time.monotonic() - since:.0f} s, "
                f"{len(self._unwritten)} policies wait: a restart may lose them"
            )
        unreadable = sorted(self._unreadable)
        if unreadable:
            names = ", ".join(unreadable).encode(errors="replace").decode()
            return f"stored policies in {self._folder} cannot be read: {names}: apply them again, or remove the files"
        return None

    def begin(self) -> Started[_Found]:
        """Begin to read the folder. So the folders of several kinds are read at the same time."""
        self._reading = Started(f"read-{self._folder.name}", self._read)
        return self._reading

    @property
    def is_late(self) -> bool:
        """Whether the disk has given in the end what :meth:`load` did not wait for."""
        return self._reading is not None and self._reading.has_ended

    def load(self) -> Iterator[tuple[str, Stored]]:
        """Yield each object with the name of its file. A file that cannot be read is reported and left as it is.

        If the disk takes too long, nothing is yielded until it has answered (:attr:`is_late`) and this is called again.
        """
        try:
            found = (self._reading or self.begin()).result(_READ_S)
        except OSError as error:
            self._report("", error)
            if not isinstance(error, TimeoutError):
                self._reading = None
            return
        self._reading = None
        self._failed.pop("", None)
        for name, why in found.wrong.items():
            self.leave_out(name, why)
        for name, content in found.contents.items():
            if name in self._latest or name in self._unwritten:
                continue  # the object has changed since
            try:
                stored = _decode(content)
            except (ValueError, RecursionError) as error:
                self.leave_out(name, str(error))
                continue
            self._latest[name] = content
            yield name, stored

    def _read(self) -> _Found:
        """Read all files. Raises OSError if the folder cannot be read."""
        make_private_folder(self._folder)
        found = _Found({}, {})
        for path in sorted(path for path in self._folder.iterdir() if path.name != _UNFINISHED):
            try:
                found.contents[path.name] = read_state(path, _MAX_BYTES)
            except (OSError, DamagedError) as error:
                found.wrong[path.name] = str(error)
        return found

    def leave_out(self, name: str, why: str) -> None:
        """Report that a file is of no use. It stays where it is: its name says which policy to apply again."""
        self._unreadable.add(name)
        count_damaged("policies")
        log.error("a stored policy cannot be read, and is left out", file=str(self._folder / name), error=why)

    def save(self, name: str, stored: Stored) -> None:
        """Store an object soon."""
        content = msgspec.json.encode(stored)
        if self._latest.get(name) != content:
            self._latest[name] = content
            self._write_soon(name, content)

    def remove(self, name: str) -> None:
        """Forget an object."""
        self._latest.pop(name, None)
        self._write_soon(name, None)

    def close(self, patience_s: float = 2.0) -> None:
        """Write what waits, for at most ``patience_s`` seconds: a disk that does not answer must not keep a process."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(patience_s)

    # --- the thread that writes

    def _write_soon(self, name: str, content: bytes | None) -> None:
        with self._changed:
            self._unreadable.discard(name)
            self._unwritten[name] = content
            if self._unwritten_since is None:
                self._unwritten_since = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"store-{self._folder.name}", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unwritten or self._closing.is_set())
                if not self._unwritten:
                    return
                name, content = next(iter(self._unwritten.items()))
            try:
                self._write(name, content)
            except OSError as error:
                self._report(name, error)
                with self._changed:  # the others go first
                    self._unwritten[name] = self._unwritten.pop(name)
                if self._closing.wait(_RETRY_S):
                    return
            else:
                self._note_written(name, content)

    def _note_written(self, name: str, content: bytes | None) -> None:
        with self._changed:
            if self._unwritten[name] is content:
                del self._unwritten[name]
            self._unwritten_since = time.monotonic() if self._unwritten else None
            self._failed.pop("", None)
            self._failed.pop(name, None)

    def _write(self, name: str, content: bytes | None) -> None:
        if content is None:
            (self._folder / name).unlink(missing_ok=True)
            return
        make_private_folder(self._folder)
        unfinished = self._folder / _UNFINISHED
        with open(unfinished, "wb", opener=open_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / name)

    def _report(self, name: str, error: OSError) -> None:
        why = error.strerror or str(error)
        if why not in self._failed.values():
            log.error("policies cannot be stored: a restart may lose them", folder=str(self._folder), error=str(error))
        self._failed[name] = why
