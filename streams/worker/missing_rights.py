"""Waits while Kafka takes nothing from the enricher because a right is missing.

What was refused cannot be sent again by itself: later records of the same pod may be in Kafka by then, and a producer
that may write nothing at all never goes on. So nothing more is sent, and the process stays as it is, unready. Once the
right is there, it begins again: batches that are not acknowledged are read again, as after any restart.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from enrich.diagnosis.rights import Needs, causes
from enrich.runtime.process import Exit
from streams.kafka.producer import RecordProducer
from streams.settings import Settings

log = structlog.get_logger("kubeweir.streams")

_LOOK_S: Final = 2.0
_UNSEEN_S: Final = 10.0
"""Some brokers do not show a user's rights: then the process begins again after so long, and is refused or not."""


class MissingRights:
    """The rights that one worker misses."""

    def __init__(
        self,
        settings: Settings,
        producer: RecordProducer,
        loop: asyncio.AbstractEventLoop,
        stop: threading.Event,
        begin_again: Callable[[], None],
    ) -> None:
        """``begin_again`` makes the process begin again. It is called on the event loop."""
        self.may_send = asyncio.Event()
        """Cleared once something was refused."""
        self.may_send.set()
        self._settings, self._producer, self._loop = settings, producer, loop
        self._stop, self._begin_again = stop, begin_again
        self._refused: dict[str, str] = {}
        """What Kafka has said, by topic; by an empty name if it is about no topic."""
        self._lock = threading.Lock()

    def problem(self) -> str | None:
        """Return what the worker may not do, or None."""
        with self._lock:
            errors = "; ".join(self._refused.values())
        return f"Kafka takes no records until the right is given: {errors}" if errors else None

    def on_refused(self, error: str, topic: str = "") -> None:
        """Take an error after which nothing more is acknowledged (any thread). ``topic``: the one without a right; if
        it is empty, it is found out whether a right is missing."""
        with self._lock:
            is_first = not self._refused
            if is_first or topic:
                self._refused.setdefault(topic, error)
        if is_first:
            threading.Thread(target=self._wait, args=(error, bool(topic)), name="rights", daemon=True).start()

    def _wait(self, error: str, is_right: bool) -> None:
        if not is_right and not self._missing():
            log.error("Kafka refuses to take records; stopping. Batches that are not acknowledged will be read again",
                      error=error)  # fmt: skip
            os._exit(Exit.KAFKA)
        log.error(
            "Kafka takes no records because a right is missing; waiting for it. Batches that are not acknowledged will "
            "be read again", error=error,
        )  # fmt: skip
        self._loop.call_soon_threadsafe(self.may_send.clear)
        self._producer.drop_queued()
        began_at, seen = time.monotonic(), False
        while not self._stop.wait(_LOOK_S):
            if self._missing():
                seen = True
            elif self._stop.is_set():
                return  # asked to stop while Kafka was asked: a process that ends does not begin again
            elif seen or time.monotonic() - began_at >= _UNSEEN_S:
                log.info("the right has been given; the enricher begins again")
                self._loop.call_soon_threadsafe(self._begin_again)
                return

    def _missing(self) -> bool:
        """Return whether Kafka says that a right is missing on one of the refused topics."""
        with self._lock:
            named = frozenset(filter(None, self._refused))
        own = self._settings.topics
        topics = named or frozenset(one.name for one in (own.flows, own.denied, own.ended, own.status, own.dead))
        try:
            return any(cause.about in topics for cause in causes(self._settings.connection(), Needs(writes=topics)))
        except Exception:
            # As in the diagnosis: a cause that cannot be found must not end the thread.
            log.exception("it cannot be found out which right is missing")
            return False
