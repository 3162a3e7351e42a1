"""Work on a disk that may hang, in a thread of its own, so that its caller waits only as long as it wants to.

A call to a disk that does not answer cannot be stopped. The thread ends with the call, and does not keep the process
alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from typing import Generic, TypeVar

from enrich.runtime.work_thread import start_work

T = TypeVar("T")


class Started(Generic[T]):
    """Work that has begun, and its result."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        """Begin ``work`` in a thread called ``name``."""
        self._began = time.monotonic()
        self._done = start_work(work, name)

    @property
    def has_ended(self) -> bool:
        """Whether the work has ended."""
        return self._done.done()

    def result(self, timeout_s: float) -> T:
        """Return what the work returns, or raise what it raises.

        Raises TimeoutError if it takes longer, from its beginning: so several works can be waited for together.
        """
        futures.wait((self._done,), max(0.0, self._began + timeout_s - time.monotonic()))
        if not self._done.done():
            raise TimeoutError(f"the disk did not answer within {timeout_s:.0f} s")
        return self._done.result()
