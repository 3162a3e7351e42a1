"""A folder that is watched (inotify): whoever reads it is called on a thread whenever it may be another than it was.

It may vanish and come back, or another may be put in its place: the kernel's watch is of the one that is gone, so it is
made anew. While the kernel gives none, that is told as a problem, until it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
import watchfiles

log = structlog.get_logger("kubeweir.folder")

_DEBOUNCE_MS = 100
"""Editors write a file in several steps."""
_LOOK_MS = 500
_RETRY_S = 0.2
_UNWATCHED_S = 5.0


class FolderWatch:
    """Calls ``look`` first when the kernel's watch is there, then at each change, and where there is no folder."""

    def __init__(self, name: str, folder: Path, look: Callable[[], None], *, whole: bool) -> None:
        """``whole``: all that is below it changes it. Else only its own entries do; as these may be links to elsewhere,
        ``look`` is then called each half second too, and should cost little where nothing has changed. What it raises
        ends the watch."""
        self._name, self._folder, self._look, self._whole = name, folder, look, whole
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """Why changes are not seen now."""

    def start(self) -> None:
        """Watch, on a thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def wait(self, seconds: float) -> None:
        """For ``look``: sleep, but not longer than the watch lasts."""
        self._stop.wait(seconds)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._watch()
                except OSError as error:
                    self._unwatched(error)
                self._stop.wait(_RETRY_S)
        except Exception as error:
            self.problem = f"the watch of {self._folder} ended: {error!r}"
            log.exception("the watch of a folder ended", folder=str(self._folder))

    def _unwatched(self, error: OSError) -> None:
        """The folder went away just then, or the kernel has no watch left (fs.inotify.max_user_watches)."""
        if _inode(self._folder) is None:
            self._gone()
            return
        self.problem = f"{self._folder} cannot be watched: {error}"
        log.error("a folder cannot be watched, trying again", folder=str(self._folder), error=str(error))
        self._stop.wait(_UNWATCHED_S)

    def _gone(self) -> None:
        """Whoever reads it says that, better than the watch can."""
        self.problem = None
        self._look()

    def _watch(self) -> None:
        """Look at each change; returns when the folder is gone, and with it the kernel's watch of it."""
        inode = _inode(self._folder)
        if inode is None:
            self._gone()
            return
        changes = watchfiles.watch(
            self._folder, watch_filter=None, stop_event=self._stop, debounce=_DEBOUNCE_MS, step=20,
            rust_timeout=_LOOK_MS, yield_on_timeout=True, raise_interrupt=False, recursive=self._whole,
        )  # fmt: skip
        looked = False
        for changed in changes:
            self.problem = None
            if _inode(self._folder) != inode:
                self._look()
                return
            # The first time out too: something may have changed before the kernel's watch was there.
            if changed or not looked or not self._whole:
                looked = True
                self._look()


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None
