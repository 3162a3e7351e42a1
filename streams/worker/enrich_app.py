"""Faust's application and worker, with the hooks that they lack."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import faust

from enrich.runtime.process import StopRequest


class EnrichApp(faust.App):  # type: ignore[misc]  # Faust has no types
    """A Faust app that keeps nothing on disk, and calls ``before_commit`` before each commit."""

    before_commit: Callable[[Mapping[Any, int]], Awaitable[Mapping[Any, int]]]
    """Takes the offsets that are about to be committed; returns those that may be."""
    after_commit: Callable[[], None]
    """Called when Kafka has accepted a commit."""
    earlier_starts: Callable[[Mapping[Any, int | None]], Awaitable[Mapping[Any, int]]]
    """Takes the committed offsets of what was assigned; returns from where to read instead, if earlier."""

    def _new_consumer(self) -> Any:
        # Faust has no hook there.
        consumer = super()._new_consumer()
        commit = consumer._commit

        async def commit_prepared(offsets: Mapping[Any, int]) -> bool:
            prepared = await self.before_commit(offsets)
            done = bool(await commit(prepared)) if prepared else True
            if done and prepared:
                self.after_commit()
            return done

        consumer._commit = commit_prepared
        return consumer

    def _create_directories(self) -> None:
        """Create nothing. Faust would create folders for its tables in the working directory; there are no tables."""


class StoppableWorker(faust.Worker):  # type: ignore[misc]  # as above
    """A Faust worker that also stops if the signal arrived before Faust had installed its handlers."""

    def __init__(self, app: faust.App, stop: threading.Event, **options: Any) -> None:
        super().__init__(app, **options)
        self._stop_requested = stop
        self.can_stop = threading.Event()
        """Set once Faust has begun to start: it would not notice an earlier stop."""
        self.spinner = None

    def install_signal_handlers(self) -> None:
        super().install_signal_handlers()
        self.can_stop.set()
        if self._stop_requested.is_set():
            self.shut_down()

    def shut_down(self) -> None:
        """Stop, without a signal. The event loop calls it."""
        super()._schedule_shutdown(signal.SIGTERM)

    def _schedule_shutdown(self, number: signal.Signals) -> None:
        if isinstance(self._stop_requested, StopRequest):
            self._stop_requested.by_signal = True
        self._stop_requested.set()
        super()._schedule_shutdown(number)
