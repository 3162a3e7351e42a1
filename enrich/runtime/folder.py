"""Watches a folder with inotify, and calls its reader on a thread whenever the content may have changed.

The folder may disappear and come back, or be replaced by another one. The kernel's watch belongs to the old inode, so a
new watch is made. If the kernel refuses to watch, :attr:`FolderWatch.problem` says so until it no longer does.
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
_POLL_MS = 500
_RETRY_S = 0.2
_UNWATCHED_RETRY_S = 5.0


class FolderWatch:
    """Calls ``on_change`` once the kernel watches the folder, at each change, and when the folder is missing."""

    def __init__(self, name: str, folder: Path, on_change: Callable[[], None], *, recursive: bool) -> None:
        """``recursive``: everything below the folder counts. Otherwise only its own entries do. Because they may be
        links to other folders, ``on_change`` is then called every half second as well, and should cost little if
        nothing has changed. An exception from it ends the watch."""
        self._name, self._folder, self._on_change, self._recursive = name, folder, on_change, recursive
        self._stop = threading.Event()
        self._is_stale = False
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """Why changes are not noticed now; None if they are."""

    def start(self) -> None:
        """Start to watch, on a thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to watch."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than the watch lasts; for use in ``on_change``."""
        self._stop.wait(seconds)

    def renew(self) -> None:
        """Watch anew after this call of ``on_change``: the kernel may have no watch in a folder that could not be read
        when it appeared."""
        self._is_stale = True

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._watch()
                except OSError as error:
                    self._unwatched(error)
                self._stop.wait(_RETRY_S)
        except Exception as error:
            self.problem = f"watching {self._folder} failed: {error!r}"
            log.exception("watching a folder failed", folder=str(self._folder))

    def _unwatched(self, error: OSError) -> None:
        """Handle a refusal: the folder has just disappeared, or no watch is left (fs.inotify.max_user_watches)."""
        if _inode(self._folder) is None:
            self._report_missing()
            return
        self.problem = f"{self._folder} cannot be watched: {error}"
        log.error("a folder cannot be watched, retrying", folder=str(self._folder), error=str(error))
        self._stop.wait(_UNWATCHED_RETRY_S)

    def _report_missing(self) -> None:
        """Let the reader find that the folder is missing: it reports that better than the watch can."""
        self.problem = None
        self._on_change()

    def _watch(self) -> None:
        """Call the reader at each change; return when the folder is gone, and the kernel's watch with it,
        or when another watch is needed."""
        inode = _inode(self._folder)
        if inode is None:
            self._report_missing()
            return
        changes = watchfiles.watch(
            self._folder, watch_filter=None, stop_event=self._stop, debounce=_DEBOUNCE_MS, step=20,
            rust_timeout=_POLL_MS, yield_on_timeout=True, raise_interrupt=False, recursive=self._recursive,
        )  # fmt: skip
        called = self._is_stale = False
        for changed in changes:
            self.problem = None
            if _inode(self._folder) != inode:
                self._on_change()
                return
            # Also at the first timeout: something may have changed before the kernel's watch existed.
            if changed or not called or not self._recursive:
                called = True
                self._on_change()
            if self._is_stale:
                return


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None
