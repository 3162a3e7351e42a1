"""Work on a disk that may hang, in a thread of its own, so that its caller waits only as long as it wants to.

A call to a disk that does not answer cannot be stopped. The thread ends with the call, and does not keep the process
alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Started(Generic[T]):
    """Work that has begun, and its result."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        """Begin ``work`` in a thread called ``name``."""
        self._done: list[T] = []
        self._raised: list[Exception] = []
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._done.append(work())
        except Exception as error:
            self._raised.append(error)

    @property
    def has_ended(self) -> bool:
        """Whether the work has ended."""
        return not self._thread.is_alive()

    def result(self, timeout_s: float) -> T:
        """Return what the work returns, or raise what it raises.

        Raises TimeoutError if it takes longer, from its beginning: so several works can be waited for together.
        """
        self._thread.join(max(0.0, self._began + timeout_s - time.monotonic()))
        if self._raised:
            raise self._raised[0]
        if not self._done:
            raise TimeoutError(f"the disk did not answer within {timeout_s:.0f} s")
        return self._done[0]
