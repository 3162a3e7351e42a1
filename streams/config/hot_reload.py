"""A file that people write, while it is in use: a good change is taken over, a bad one changes nothing and is told."""

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
_AGAIN_S: Final = 10.0
"""What cannot be made of a good file may be possible later: Kafka may be away."""
S = TypeVar("S")
T = TypeVar("T")


class HotReloadedFile(Generic[S, T]):
    """Reads the file, has something made of it, and does so again whenever it changes.

    ``current`` is exchanged in one assignment, by a thread of its own: who uses it reads it once a batch.
    """

    def __init__(
        self, what: str, setting: str, path: Path, read: Callable[[bytes, str], S], make: Callable[[S], T]
    ) -> None:
        """``what``: its name in lines of the log; ``setting``: the variable that names it. ``read`` makes values of
        content and name, and raises FileError; ``make`` may take its time, and raise StopServiceError for what cannot
        be."""
        self._what, self._setting = what, setting
        self._path, self._parse, self._make = path, read, make
        # The folder: editors, and Kubernetes for a ConfigMap, put another file in its place.
        self._watch = FolderWatch(what, path.parent, self.look, whole=False)
        self._problem: str | None = None
        self._content = b""
        self._again = math.inf
        self.current: T

    def read(self) -> S:
        """The file as it is. Raises StopServiceError for one that is wrong."""
        try:
            self._content = self._path.read_bytes()
            return self._parse(self._content, str(self._path))
        except OSError as error:
            raise StopServiceError(f"{self._setting}={str(self._path)!r}: {error.strerror}", Exit.USAGE) from error
        except FileError as error:
            raise StopServiceError(str(error), Exit.USAGE) from error

    def start(self) -> None:
        """Take it over the first time, and then whenever it changes. Raises StopServiceError."""
        self.current = self._make(self.read())
        self._watch.start()

    def stop(self) -> None:
        """End the watch."""
        self._watch.stop()

    def problem(self) -> str | None:
        """What is wrong with the file now; the last good one is in force."""
        return self._watch.problem or self._problem

    def look(self) -> None:
        """Take the file over if it is another than it was, or if nothing could be made of it a while ago."""
        try:
            content = self._read_settled()
        except OSError as error:
            # Should it come back as it was, it is taken over once more.
            self._content = b""
            self._tell(f"{self._path}: {error.strerror}")
            return
        if content == self._content and time.monotonic() < self._again:
            return
        self._content = content
        try:
            self.current = self._make(self._parse(content, str(self._path)))
        except (FileError, StopServiceError) as error:
            self._tell(str(error))
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}", error)
        else:
            self._good()
        self._again = math.inf if self._problem is None else time.monotonic() + _AGAIN_S

    def _good(self) -> None:
        self._problem = None
        log.info(f"{self._what} taken over", path=str(self._path))

    def _tell(self, problem: str, unexpected: Exception | None = None) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error(
                f"the {self._what} file is refused, the last good one stays in force",
                problems=problem.splitlines(),
                exc_info=unexpected,
            )

    def _read_settled(self) -> bytes:
        """The file when nobody writes to it: one that was just emptied is about to be filled."""
        before = self._path.read_bytes()
        while before != self._content:
            self._watch.wait(_SETTLED_S)
            now = self._path.read_bytes()
            if now == before:
                break
            before = now
        return before
