"""Hot reload of a configuration file: a good change is applied at once; a bad one is reported and changes nothing.

Who edits such a file cannot be relied on to write it atomically, and Kubernetes replaces the files of a ConfigMap by
swapping a symbolic link. So the folder is watched, not the file, and a file is read until it is the same twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from enrich.runtime.folder import FolderWatch
from enrich.runtime.process import Exit, StopServiceError
from streams.config.yaml_file import FileError

log = structlog.get_logger("kubeweir.streams")

_SETTLED_S: Final = 0.05
_RETRY_S: Final = 10.0
"""A good file that cannot be applied now is retried: Kafka may have been out of reach."""
S = TypeVar("S")
T = TypeVar("T")


class HotReloadedFile(Generic[S, T]):
    """Reads a file, applies it, and does so again whenever the file changes.

    ``current`` is the result of the last successful ``apply``. A thread of its own replaces it in one assignment, so
    read it once per unit of work.
    """

    def __init__(
        self, what: str, setting: str, path: Path, read: Callable[[bytes, str], S], apply: Callable[[S], T]
    ) -> None:
        """``what`` names the file in log lines, ``setting`` is the variable that holds its path. ``read`` turns content
        and file name into values, or raises FileError. ``apply`` puts the values into force; it may take its time, and
        raises StopServiceError if it cannot; then everything must be as before."""
        self._what, self._setting = what, setting
        self._path, self._parse, self._apply = path, read, apply
        # Editors, and Kubernetes for a ConfigMap, put another file in the place of this one.
        self._watch = FolderWatch(what, path.parent, self.check, recursive=False)
        self._problem: str | None = None
        self._content = b""
        self._retry_at = math.inf
        self.current: T

    def read(self) -> S:
        """Read the file as it is now. Raises StopServiceError if it is missing or wrong."""
        try:
            self._content = self._path.read_bytes()
            return self._parse(self._content, str(self._path))
        except OSError as error:
            raise StopServiceError(f"{self._setting}={str(self._path)!r}: {error.strerror}", Exit.USAGE) from error
        except FileError as error:
            raise StopServiceError(str(error), Exit.USAGE) from error

    def start(self) -> None:
        """Apply the file now, and again whenever it changes. Raises StopServiceError if it cannot be applied now."""
        self.current = self._apply(self.read())
        self._watch.start()

    def stop(self) -> None:
        """Stop watching."""
        self._watch.stop()

    def problem(self) -> str | None:
        """Return what is wrong with the file now, or None. The last good one is in force."""
        return self._watch.problem or self._problem

    def check(self) -> None:
        """Apply the file if its content changed, or if a retry is due."""
        try:
            content = self._read_settled()
        except OSError as error:
            # If the file comes back unchanged, it is applied once more.
            self._content = b""
            self._report(f"{self._path}: {error.strerror}")
            return
        if content == self._content and time.monotonic() < self._retry_at:
            return
        self._content = content
        try:
            self.current = self._apply(self._parse(content, str(self._path)))
        except (FileError, StopServiceError) as error:
            self._report(str(error))
        except Exception as error:
            self._report(f"{type(error).__name__}: {error}", error)
        else:
            self._on_applied()
        self._retry_at = math.inf if self._problem is None else time.monotonic() + _RETRY_S

    def _on_applied(self) -> None:
        self._problem = None
        log.info(f"{self._what} file applied", path=str(self._path))

    def _report(self, problem: str, unexpected: Exception | None = None) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error(
                f"the {self._what} file is refused; the last good one stays in force",
                problems=problem.splitlines(),
                exc_info=unexpected,
            )

    def _read_settled(self) -> bytes:
        """Return the content once two reads agree: a file that was just truncated is about to be written."""
        before = self._path.read_bytes()
        while before != self._content:
            self._watch.wait(_SETTLED_S)
            now = self._path.read_bytes()
            if now == before:
                break
            before = now
        return before
