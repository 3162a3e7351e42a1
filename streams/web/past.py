"""What the page asks of the past: records of a window, and why a verdict was what it was.

These are the questions of `weir observe` and `weir explain`, by their own functions. Each runs on a thread of its own,
and ends with an error after 20 s.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from enrich.history.advice.suggestion import Suggestion
from enrich.history.comparing import AFTER_NS, BEFORE_NS
from enrich.history.stand_ins import EVERYWHERE
from enrich.history.timeline import Scope, Timeline
from enrich.model import NetworkPolicy, Policy
from enrich.wire.flow import Flow
from streams.cli.explain_past import intervals_of, nanoseconds, of_record
from streams.cli.explain_text import suggestion_yaml
from streams.cli.past import load_past
from streams.cli.past_answers import past_lines
from streams.cli.policy_yaml import policy_yaml
from streams.journal.reading import JournalSizeError
from streams.kafka.connection import Connection, NoTopicError, ReadError
from streams.kafka.ranges import ends_of
from streams.kafka.reading import TopicReader
from streams.kafka.reading_limit import ReadingLimitError, reading_within
from streams.observing.choice import Choice
from streams.observing.filters import Filters
from streams.observing.observe import MAX_RECORD_BYTES, last_matching, parse_since, since_matching, unix_ms
from streams.observing.record_search import ID, Found, Span, find_record
from streams.settings import Settings
from streams.web.query import Query
from streams.web.viewers import EVERYWHERE as ALL_NAMESPACES
from streams.web.viewers import Viewer, sees, sees_both

LAST: Final = 200
"""Records that a view begins with."""
IN_WINDOW: Final = 2000
"""Records of a window that are shown."""
READ_BACK: Final = 20_000
"""How many of the last records of each partition are looked at for a view that begins."""
TIMEOUT_S: Final = 20.0
MAX_BYTES: Final = 256 << 20
"""What is read of the journal and of address intervals to explain a record: Kafka sends as much of them in that time as
it can, and all of it becomes objects in the memory of the page."""
_MAX_MEMORY: Final = 192 << 20
"""How much memory the journal may take for an explanation. Many empty rules take 25 times their bytes on the topic, and
three people may ask at once."""
_MAX_SHOWN: Final = 20
"""Policies of a record that are shown as YAML."""
_MAX_YAML: Final = 96 << 10
"""Bytes of them, about as the journal has them. A policy may have a megabyte, which takes the page seconds."""
_ASK_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.02
T = TypeVar("T")


class UndecidedError(Exception):
    """It could not be found out whether the viewer may see it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Records of the past, oldest first."""

    flows: list[Flow]
    is_whole: bool
    """Whether no more records fit."""


class _VisibleChoice(Choice):
    """Shows what fits and what its viewer may see, for a limited time."""

    def __init__(self, choice: Choice, viewer: Viewer, deadline: float) -> None:
        super().__init__(Filters())
        self.required = choice.required
        self._choice, self._viewer, self._deadline = choice, viewer, deadline

    def may_match(self, value: bytes) -> bool:
        """Return False for a record that surely does not fit. Raises ReadError when the time is over."""
        check_time(self._deadline)
        return len(value) <= MAX_RECORD_BYTES and self._choice.may_match(value)

    def match(self, flow: Flow, value: bytes) -> bool:
        """Return whether a record fits, and the viewer may see it. Raises UndecidedError."""
        return self._choice.match(flow, value) and decided(lambda: sees(self._viewer, flow))


def check_time(deadline: float) -> None:
    """Raise ReadError when the time is over."""
    if time.monotonic() > deadline:
        raise ReadError(f"this takes longer than {TIMEOUT_S:.0f} s: choose a shorter time, or weir observe")


def decided(ask: Callable[[], bool | None]) -> bool:
    """Return the answer to a question about rights. Raises UndecidedError if there is none in time."""
    deadline = time.monotonic() + _ASK_S
    while (answer := ask()) is None:
        if time.monotonic() > deadline:
            raise UndecidedError("the API server cannot be asked what you may see: try again")
        time.sleep(_ASK_AGAIN_S)
    return answer


class PastQuestions:
    """Asks Kafka about the past."""

    def __init__(self, settings: Settings, connection: Callable[[], Connection]) -> None:
        self._settings, self._connection = settings, connection

    def flows(self, query: Query, viewer: Viewer) -> Shown:
        """Return the records of a view's window, or the last ones. Raises ReadError, UndecidedError."""
        choice = _VisibleChoice(query.choice, viewer, time.monotonic() + TIMEOUT_S)
        topics = self._settings.topics
        with self._readers(topics.flows.name, topics.denied.name) as readers:
            if query.window is None:
                # Denies are in both topics, and only looked for in their own if they are no longer among all flows.
                found = last_matching(readers[0], choice, LAST, READ_BACK)
                return Shown([one.flow for one in found], is_whole=False)
            ends = [ends_of(reader) for reader in readers]
            shown = list(islice(since_matching(readers, ends, choice, query.window), IN_WINDOW + 1))
            return Shown([one.flow for one in shown[:IN_WINDOW]], is_whole=len(shown) <= IN_WINDOW)

    @contextlib.contextmanager
    def _readers(self, *topics: str) -> Iterator[list[TopicReader]]:
        readers: list[TopicReader] = []
        try:
            for topic in topics:
                try:
                    readers.append(TopicReader(self._connection(), topic))
                except NoTopicError:
                    if not readers:
                        raise
            yield readers
        finally:
            for reader in readers:
                reader.close()

    def explanation(self, record_id: str, timestamp: str, viewer: Viewer) -> dict[str, Any]:
        """Return a record and why it was decided so, by the policies of its time. Raises ReadError, UndecidedError,
        LookupError, ValueError."""
        if not ID.fullmatch(record_id):
            raise ValueError(f"{record_id!r} is not the id of a record (RING-NUMBER)")
        at, second = parse_since(timestamp, datetime.now(UTC)), timedelta(seconds=1)
        span = Span(unix_ms(at - second), unix_ms(at + second), is_past=True)
        topics, connection = self._settings.topics, self._connection()
        names = (topics.flows.name, topics.denied.name)
        deadline = time.monotonic() + TIMEOUT_S

        def find(when: Span) -> Found | None:
            # An id that does not exist would be looked for in all of that time.
            return find_record(connection, names, record_id, when, lambda _: check_time(deadline))

        # What a node sends after an hour without Kafka lies behind that hour's records of the others.
        found_record = find(span) or find(span._replace(is_past=False))
        if found_record is None or not decided(lambda: sees(viewer, found_record.flow)):
            raise LookupError("there is no such record any more")
        flow = found_record.flow
        answer: dict[str, Any] = {"flow": msgspec.to_builtins(flow), "lines": [], "why": "", "policies": []}
        if not decided(lambda: sees_both(viewer, flow)):
            answer["why"] = "An explanation names policies of both ends, and you may see one of them only."
            return answer
        try:
            with reading_within(max(0.0, deadline - time.monotonic()), MAX_BYTES):
                at_ns = nanoseconds(flow.timestamp)
                past = load_past(connection, topics, flow.cluster, at_ns, EVERYWHERE, _MAX_MEMORY)
                intervals = intervals_of(connection, topics.endpoints.name, past.timeline.cluster)
            found = of_record(past, intervals, flow, suggest=flow.disposition != "allow")
        except ReadError as error:
            is_limit = isinstance(error, ReadingLimitError | JournalSizeError)
            hint = ": weir explain may take more" if is_limit else ""
            answer["why"] = f"What policies said then is not known: {error}{hint}"
            return answer
        if found.suggestion is not msgspec.UNSET:
            answer["suggestion"] = _shown_suggestion(found.suggestion)
            found = msgspec.structs.replace(found, suggestion=msgspec.UNSET)
        answer["lines"] = [[depth, style, text] for depth, style, text in past_lines(found)]
        answer["then"] = found.then.verdict
        sees_all = decided(lambda: viewer.may_see(ALL_NAMESPACES))
        answer["policies"] = list(_named_policies(past.timeline, at_ns, flow, sees_all=sees_all))
        return answer


def _shown_suggestion(found: Suggestion) -> dict[str, Any]:
    return {"text": found.text, "notes": found.notes, "yaml": suggestion_yaml(found)}


def _named_policies(timeline: Timeline, at_ns: int, flow: Flow, *, sees_all: bool) -> Iterator[dict[str, str]]:
    """Yield the policies that a record names: ``yaml`` as each was at a time, and in ``note`` a warning about it.

    Anybody who may write to the topic of records chooses the names in one. ``sees_all``: whether policies of other
    namespaces than those of the ends may be shown, and those of the whole cluster, which name any namespace."""
    ends, left = {flow.src.namespace, flow.dest.namespace}, _MAX_YAML
    there = {(type(one).__name__, one.key.namespace, one.name): one for one in timeline.view_at(at_ns).all_policies()}
    names = dict.fromkeys((one.kind, one.namespace, one.name) for one in (*flow.policies, *flow.isolated_by))
    for kind, namespace, name in list(names)[:_MAX_SHOWN]:
        shown = {"name": f"{namespace}/{name}" if namespace else name, "yaml": "", "note": ""}
        policy, scope = there.get((kind, namespace, name)), Scope(namespace)
        if not sees_all and (kind != NetworkPolicy.__name__ or namespace not in ends):
            shown["note"] = "To see it takes the right for all namespaces."
        elif why := timeline.unknown(scope, at_ns, at_ns):
            shown["note"] = f"What it was then is not known: {why}."
        elif policy is None:
            continue
        elif (size := _size(policy)) > left:
            shown["note"] = "It is too large to be shown here."
        else:
            left -= size
            shown["yaml"] = policy_yaml(policy)
            around = timeline.changes(scope, max(0, at_ns - BEFORE_NS), at_ns + AFTER_NS)
            if any((one.kind, one.namespace, one.name) == (kind, namespace, name) for one in around):
                shown["note"] = "It was changed about then, and the node may have had the version before or after this."
        yield shown


def _size(policy: Policy) -> int:
    return len(msgspec.json.encode(policy))
