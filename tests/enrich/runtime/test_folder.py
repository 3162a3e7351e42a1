"""The watch of a folder where the kernel gives none, and where its reader fails. What it sees: test_manifests."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from enrich.runtime import folder as module
from enrich.runtime.folder import FolderWatch


def until_problem(watch: FolderWatch, said: str | None) -> None:
    deadline = time.monotonic() + 60
    while watch.problem != said if said is None else said not in (watch.problem or ""):
        assert time.monotonic() < deadline, watch.problem
        time.sleep(0.01)


def test_a_watch_that_the_kernel_refuses_is_told_and_tried_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, allowed, calls = watchfiles.watch, threading.Event(), threading.Semaphore(0)

    def watch(*arguments: Any, **settings: Any) -> Iterator[object]:
        if not allowed.is_set():
            raise OSError(errno.ENOSPC, "no watch left")
        return real(*arguments, **settings)

    monkeypatch.setattr(module, "_UNWATCHED_RETRY_S", 0.01)
    monkeypatch.setattr(watchfiles, "watch", watch)
    folder_watch = FolderWatch("test", tmp_path, calls.release, recursive=True)
    folder_watch.start()
    try:
        until_problem(folder_watch, "no watch left")
        assert not calls.acquire(blocking=False)
        allowed.set()
        until_problem(folder_watch, None)
        assert calls.acquire(timeout=240), "what changed meanwhile is looked at"
    finally:
        folder_watch.stop()


def test_a_reader_that_fails_ends_the_watch_and_says_so(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    folder_watch = FolderWatch("test", tmp_path, fail, recursive=True)
    folder_watch.start()
    try:
        until_problem(folder_watch, "failed: ZeroDivisionError('a bug')")
    finally:
        folder_watch.stop()
