"""Answers a request for flows: the past that it asks for, what is missing in it, and then what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from enrich.wire.flow import Flow
from streams.hubble import words
from streams.hubble.bounded_reader import BoundedReader
from streams.hubble.flow_form import read_time, response
from streams.hubble.losses import lost_response, new_loss, past_losses
from streams.hubble.request import FlowsRequest
from streams.kafka.connection import Connection
from streams.kafka.ranges import ends_of
from streams.kafka.reading import TopicReader
from streams.observing.observe import (
    MAX_RECORD_BYTES,
    Shown,
    Window,
    first_of_all,
    followed,
    last_of_all,
    since_matching,
    unix_ms,
)

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
MAX_SORTED_BYTES: Final = 1 << 30
"""The records of an answer that are sorted, on disk, before the first is sent."""
_RECORDS_PER_READ: Final = 1000
_MAX_ID: Final = 128
"""Characters. The last 100,000 ids are remembered for each client."""


class TooMuchError(Exception):
    """An answer would take more than a client may have. The message says what to ask for."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Where flows are read from."""

    connection: Connection
    flows: str
    denied: str
    status: str
    cluster: str
    """The cluster whose records are shown; empty: all."""


class _Choice:
    """Chooses the records of a request, and bounds how many are sorted."""

    def __init__(self, request: FlowsRequest, cluster: str) -> None:
        self._filters, self._cluster = request.filters, cluster
        self._left = MAX_SORTED_BYTES

    def may_match(self, value: bytes) -> bool:
        """Return False for a record that surely does not fit, by its bytes alone."""
        return len(value) <= MAX_RECORD_BYTES and self._filters.may_match(value)

    def match(self, flow: Flow, value: bytes) -> bool:
        """Return whether a record fits. Raises ValueError for one whose time is no time: it would take the place of one
        of the first or last ones."""
        if self._cluster not in {"", flow.cluster} or len(flow.id) > _MAX_ID or not self._filters.match(flow, value):
            return False
        read_time(flow.timestamp)
        return True


class _SortedChoice(_Choice):
    def match(self, flow: Flow, value: bytes) -> bool:
        """Return whether a record fits. Raises TooMuchError if too many do."""
        if not super().match(flow, value):
            return False
        self._left -= len(value)
        if self._left < 0:
            gib = MAX_SORTED_BYTES >> 30
            raise TooMuchError(f"more than {gib} GiB of records fit: ask for a shorter time, or with more filters")
        return True


class FlowsCall:
    """Everything that is sent for one request."""

    def __init__(self, topics: Topics, request: FlowsRequest, version: str, is_active: Callable[[], bool]) -> None:
        """``is_active`` returns False once the client has gone or the server stops."""
        self._topics, self._request, self._version, self._is_active = topics, request, version, is_active
        self._shown_from: datetime | None = None

    def messages(self) -> Iterator[Any]:
        """Yield the answers. Raises ReadError, TooMuchError, ClientGoneError; OSError if there is no room to sort."""
        request, topics = self._request, self._topics
        with ExitStack() as stack:
            readers = [self._open(topics.flows, stack)]
            if request.filters.may_be_denied:
                readers.append(self._open(topics.denied, stack))
            status = self._open(topics.status, stack)
            ends = [ends_of(reader) for reader in readers]
            status_ends = ends_of(status)
            sent = set[str]()
            for shown in self._past(readers, ends):
                if request.follows and not request.is_of_a_time:
                    # The last ones are read after `ends`, so that they can be among those that come.
                    sent.add(shown.flow.id)
                if (found := self._response(shown.flow)) is not None:
                    self._shown_from = self._shown_from or datetime.fromtimestamp(found.time.seconds, UTC)
                    yield found
            window = self._window_of_losses()
            if window is not None:
                yield from past_losses(status, status_ends, window, topics.cluster)
            if request.follows:
                yield from self._new(readers[0], ends[0], status, status_ends, sent)

    def _response(self, flow: Flow) -> Any | None:
        """Return the answer that holds a flow; None for a record that no worker of ours made, because its time is none,
        or a text cannot be encoded: any client that may write to the topic can put one there."""
        try:
            return response(flow, self._version, self._request.mask)
        except (ValueError, OverflowError):
            return None

    def _open(self, topic: str, stack: ExitStack) -> BoundedReader:
        reader = TopicReader(self._topics.connection, topic)
        stack.callback(reader.close)
        return BoundedReader(reader, self._is_active)

    def _past(self, readers: Sequence[BoundedReader], ends: Sequence[Mapping[int, int]]) -> Iterable[Shown]:
        request = self._request
        if request.is_of_a_time:
            window = Window(request.since or _EPOCH, request.until)
            found = since_matching(readers, ends, _SortedChoice(request, self._topics.cluster), window)
            if not request.number or request.follows:
                return found
            if request.since is None and not request.is_first:
                return deque(found, request.number)
            return islice(found, request.number)
        if not request.number:
            return ()
        choice = _Choice(request, self._topics.cluster)
        return (first_of_all if request.is_first else last_of_all)(readers, choice, request.number)

    def _window_of_losses(self) -> Window | None:
        since = self._request.since or self._shown_from
        return None if since is None else Window(since, self._request.until)

    def _new(
        self, reader: BoundedReader, start: Mapping[int, int], status: BoundedReader, status_start: Mapping[int, int],
        sent: Collection[str],
    ) -> Iterator[Any]:  # fmt: skip
        """Yield what comes and is of the time that is asked for, without what was sent, until the client goes."""
        since = self._request.since or _EPOCH
        is_in_time, since_ms = Window(since).test(), unix_ms(since)
        choice = _Choice(self._request, self._topics.cluster)
        status.start(status_start)
        for shown in followed(reader, start, choice):
            if shown is not None:
                is_new = shown.flow.id not in sent and is_in_time(shown.flow.timestamp)
                if is_new and (found := self._response(shown.flow)) is not None:
                    yield found
                continue
            for record in status.take(_RECORDS_PER_READ, 0):
                if record.timestamp_ms >= since_ms and (loss := new_loss(record, self._topics.cluster)) is not None:
                    yield loss
            if reader.removed:
                now_ms = unix_ms(datetime.now(UTC))
                yield lost_response("", words.HUBBLE_RING_BUFFER, reader.removed, now_ms, now_ms)
                reader.removed = 0
