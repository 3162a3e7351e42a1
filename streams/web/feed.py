"""Follows the topic of flows for all live views at once, and says when Kafka does not answer.

One thread reads, and hands each record to every view. It reads while somebody looks. If Kafka does not answer, the
client connects again by itself: the views get a message that says since when they see nothing new, and another one when
Kafka answers again. If records arrive faster than the thread takes them, it goes on with the newest ones, and tells the
views how many it left out, because a view that is minutes behind looks like one that is not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import orjson
import structlog

from enrich.wire.flow import decode_flow
from streams.kafka.connection import ReadError
from streams.kafka.ranges import Reader, ends_of
from streams.observing.observe import MAX_RECORD_BYTES
from streams.web.watcher import Watcher, event

log = structlog.get_logger("kubeweir.streams")

SEND_S: Final = 0.25
_RECORDS_PER_READ: Final = 1000
_WAIT_S: Final = 0.1
_QUIET_S: Final = 3.0
"""After so long without a record, Kafka is asked whether it is there."""
_RETRY_S: Final = 1.0
_COMPARE_S: Final = 2.0
"""How often the thread compares where it is with the end of the topic."""
_BEHIND_S: Final = 10.0
_MIN_BEHIND: Final = 5 * _RECORDS_PER_READ
"""Records are left out if at least ``_MIN_BEHIND`` wait and reading them takes ``_BEHIND_S`` or longer at the present
pace."""
_IDLE_S: Final = 30.0
"""How long the topic is followed on when nobody looks any more: a page that is loaded again needs it at once."""


class FeedReader(Reader, Protocol):
    """Reads a topic; see :class:`streams.kafka.reading.TopicReader`."""

    def close(self) -> None: ...


class FlowFeed:
    """The thread, and the views."""

    def __init__(
        self, open_reader: Callable[[], FeedReader], on_skipped: Callable[[str, int], object] = lambda *_: None
    ) -> None:
        """``on_skipped`` counts records that are not shown to anybody, by the reason."""
        self._open, self._on_skipped = open_reader, on_skipped
        self._lock = threading.Lock()
        self._watchers: dict[Watcher, Callable[[bytes], bool]] = {}
        self._stop, self._wake = threading.Event(), threading.Event()
        self._reader: FeedReader | None = None
        self._next: dict[int, int] = {}
        """The offset behind the last record that was read, by partition."""
        self._taken, self._compared_at = 0, 0.0
        self._away_since: float | None = None
        self._why = ""
        self._heard_at = self._used_at = 0.0
        self.turns = 0
        """How often the thread has read successfully, or found that no view is open."""
        self._thread = threading.Thread(target=self._run, name="web-live", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def join(self, watcher: Watcher, put: Callable[[bytes], bool]) -> None:
        """Let a view have what arrives from now on. It is told the state of Kafka at once, by ``put``."""
        with self._lock:
            self._watchers[watcher] = put
            put(self._state())
        self._wake.set()

    def leave(self, watcher: Watcher) -> None:
        """Forget a view."""
        with self._lock:
            self._watchers.pop(watcher, None)

    @property
    def count(self) -> int:
        """How many views there are."""
        return len(self._watchers)

    def problem(self) -> str | None:
        """Return since when Kafka does not answer, or None."""
        since = self._away_since
        return None if since is None else f"Kafka does not answer since {time.time() - since:.0f} s: {self._why}"

    def _state(self) -> bytes:
        return event("kafka", orjson.dumps({"away_since": self._away_since, "why": self._why}))

    def _run(self) -> None:
        sent_at = time.monotonic()
        while not self._stop.is_set():
            if not self._is_used():
                self._shut()
                with self._lock:
                    # Kafka is not asked until a view opens, so it is not known any more whether it answers. A view that
                    # opened while the client was closed may know that Kafka is away, and must hear that it is back.
                    if not self._watchers:
                        self._away_since = None
                self.turns += 1
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            self._try(self._read)
            if time.monotonic() - sent_at >= SEND_S:
                sent_at = time.monotonic()
                self._try(self._send)
        self._shut()

    def _try(self, step: Callable[[], None]) -> None:
        """Do a step. All views depend on the thread: if a step fails, it says why, and begins again with another
        client."""
        try:
            step()
        except ReadError as error:
            self._report(str(error))
            self._stop.wait(_RETRY_S)
        except Exception as error:
            log.exception("the page cannot read new records; retrying")
            self._report(f"{type(error).__name__}: {error}")
            self._shut()
            self._stop.wait(_RETRY_S)

    def _is_used(self) -> bool:
        """Return whether somebody looks, or has looked lately."""
        if self._watchers:
            return True
        return self._reader is not None and time.monotonic() - self._used_at < _IDLE_S

    def _read(self) -> None:
        """Read what there is. Raises ReadError."""
        if self._reader is None:
            reader = self._open()
            try:
                self._start(reader, ends_of(reader))
            except BaseException:
                reader.close()  # one that was not started would give no record, and no error
                raise
            self._reader = reader
            self._report("")
        records = self._reader.take(_RECORDS_PER_READ, _WAIT_S)
        now = time.monotonic()
        if records:
            self._heard_at = now
            self._report("")
        elif now - self._heard_at > _QUIET_S:
            self._reader.bounds()
            self._heard_at = now
            self._report("")
        for record in records:
            self._next[record.partition] = record.offset + 1
            self._offer(record.value)
        self._taken += len(records)
        if now - self._compared_at >= _COMPARE_S:
            self._catch_up(self._reader, now)
        self.turns += 1

    def _start(self, reader: FeedReader, offsets: dict[int, int]) -> None:
        reader.start(offsets)
        self._next, self._taken, self._compared_at = dict(offsets), 0, time.monotonic()

    def _catch_up(self, reader: FeedReader, now: float) -> None:
        """Go on with the newest records if too many wait, and tell the views. Raises ReadError."""
        pace = self._taken / (now - self._compared_at)
        self._taken, self._compared_at = 0, now
        if not pace:
            return
        ends = ends_of(reader)
        waiting = sum(max(0, end - self._next.get(partition, end)) for partition, end in ends.items())
        if waiting < max(_MIN_BEHIND, pace * _BEHIND_S):
            return
        self._start(reader, ends)
        self._on_skipped("behind", waiting)
        log.warning("records come faster than the page takes them: it goes on with the newest ones", skipped=waiting)
        with self._lock:
            message = event("behind", orjson.dumps({"skipped": waiting}))
            for put in self._watchers.values():
                put(message)

    def _offer(self, value: bytes) -> None:
        if len(value) > MAX_RECORD_BYTES:
            self._on_skipped("too_large", 1)
            return
        watchers = [one for one in tuple(self._watchers) if one.may_match(value)]
        if not watchers:
            return
        try:
            flow = decode_flow(value)
        except ValueError:
            self._on_skipped("invalid", 1)  # anybody who may write to the topic can put anything there
            return
        for watcher in watchers:
            try:
                watcher.offer(flow, value)
            except ValueError:
                self._on_skipped("invalid", 1)  # a filter by networks asks for the address of a record that has none

    def _send(self) -> None:
        if self._watchers:
            self._used_at = time.monotonic()
        at = time.time()
        for watcher in tuple(self._watchers):
            if not watcher.send(at):
                self.leave(watcher)

    def _report(self, why: str) -> None:
        """Tell the views that Kafka answers, or why it does not."""
        is_away, was_away = bool(why), self._away_since is not None
        if is_away == was_away:
            return
        with self._lock:
            self._away_since, self._why = (time.time(), why) if is_away else (None, "")
            state = self._state()
            for put in self._watchers.values():
                put(state)
        if is_away:
            log.warning("the page cannot read new records; retrying", error=why)
        else:
            log.info("the page reads new records again")

    def _shut(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
