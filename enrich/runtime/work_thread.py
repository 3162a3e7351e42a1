"""Runs a piece of work on a thread of its own, for a caller that has something else to do meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start_work(work: Callable[[], T], name: str) -> Future[T]:
    """Start the work. The future has what it returns or raises.

    Unlike those of an executor, a thread whose work hangs does not keep the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
