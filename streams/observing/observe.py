"""What `weir observe` does: read flows from chosen offsets, keep those that fit, and hand them to a writer.

Denies and audits are in two topics: with all other flows, and for longer in a topic of their own. What the first has no
longer is read from the second.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from enrich.wire.flow import Flow, decode_flow
from streams.kafka.ranges import Reader, read_range
from streams.observing.choice import FlowTest
from streams.observing.sorting import sort_values

MAX_RECORD_BYTES: Final = 64 << 10
"""The size of the largest record that a server shows to its clients. Ours have a few kilobytes. Anyone who may write to
the topic can write megabytes; thousands of such records, kept for a client, would fill the memory."""
_RECORDS_PER_READ: Final = 1000
_QUIET_S: Final = 0.2
_REMEMBERED: Final = 100_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
Keep = Callable[[Flow, bytes], bytes]
"""Returns what is kept of a flow until all are sorted, as JSON; takes the flow and the record as Kafka has it."""
RowOf = Callable[[Flow], Sequence[str | int]]
"""Returns what a row says of a flow."""
T = TypeVar("T")


class Shown(NamedTuple):
    """A flow to show."""

    flow: Flow
    value: bytes
    """The record as it is on Kafka, with keys that this version may not know."""


class Window(NamedTuple):
    """A time of which flows are shown."""

    since: datetime
    until: datetime | None = None
    """Exclusive; None: no end."""
    late: timedelta = timedelta(minutes=15)
    """How much later than ``until`` records are read that may be of that time all the same: those of a node that could
    not send them at once."""

    def test(self) -> Callable[[str], bool]:
        """Return a function that says whether the time of a record is in the window."""
        since, until = _record_time(self.since), "~" if self.until is None else _record_time(self.until)
        return lambda timestamp: since <= timestamp < until

    @property
    def read_until_ms(self) -> int | None:
        """Until which time of Kafka's records are read; None for all."""
        return None if self.until is None else unix_ms(self.until + self.late)


def _record_time(when: datetime) -> str:
    """Return a time as records have it, with which theirs can be compared."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


def parse_since(text: str, now: datetime) -> datetime:
    """Return the time that ``text`` means: ``90s``, ``5m``, ``2h`` or ``3d`` before ``now``, or an RFC 3339 time.

    Raises ValueError."""
    try:
        if _is_duration(text):
            return now - parse_duration(text)
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is too far away: no calendar has that day") from None
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration like 90s, 5m, 2h, 3d nor a time like {now:%FT%TZ}") from None


def parse_window(since: str, until: str | None, now: datetime) -> tuple[int, int]:
    """Return begin and end of the window between ``--since`` and ``--until``, in nanoseconds since the epoch; without
    ``--until`` it ends now.

    Raises ValueError, which names the option."""
    begins = _named("--since", since, now)
    ends = _named("--until", until, now) if until else now
    if begins >= ends:
        raise ValueError(f"--since {since} is not before the end of the window")
    return unix_ns(begins), unix_ns(ends)


def _named(option: str, text: str, now: datetime) -> datetime:
    try:
        return parse_since(text, now)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def parse_duration(text: str) -> timedelta:
    """Return the duration that ``text`` means, such as ``90s``, ``5m``, ``2h`` or ``3d``.

    Raises ValueError, and OverflowError if it is longer than any calendar."""
    if not _is_duration(text):
        raise ValueError(f"{text!r} is not a duration like 90s, 5m, 2h, 3d")
    return timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])


def _is_duration(text: str) -> bool:
    return text[-1:] in _UNITS and text[:-1].replace(".", "", 1).isdigit()


def unix_ns(when: datetime) -> int:
    """Return a time in nanoseconds since 1970, and 0 for an earlier one."""
    return max(0, int(when.timestamp() * 1_000_000_000))


def unix_ms(when: datetime) -> int:
    """Return a time in milliseconds since 1970, and 0 for an earlier one: negative ones mean something else to
    Kafka."""
    return max(0, int(when.timestamp() * 1000))


class LastKeys:
    """Remembers the last keys of records: a worker that is killed sends some of its records twice."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def is_repeat(self, key: Hashable) -> bool:
        """Return whether a key is among the last ones, and remember it."""
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return False


class Selection:
    """Decodes records, chooses among them, and drops repeats."""

    def __init__(self, choice: FlowTest) -> None:
        self._choice = choice
        self._keys = LastKeys()

    def pick(self, value: bytes) -> Shown | None:
        """Return the flow in a Kafka value if it is to be shown. A value that is not a flow record is skipped,
        because any client that may write to the topic can put one there."""
        shown = _matching(value, self._choice)
        return None if shown is None or self._keys.is_repeat(shown.flow.id) else shown


def _matching(value: bytes, choice: FlowTest) -> Shown | None:
    if not choice.may_match(value):
        return None
    try:
        flow = decode_flow(value)
        return Shown(flow, value) if flow.logged and choice.match(flow, value) else None
    except ValueError:
        return None


def last_matching(reader: Reader, choice: FlowTest, count: int, most: int | None = None) -> list[Shown]:
    """Return the last ``count`` flows that fit, oldest first. Few may fit, so this looks eight times further back until
    it has found so many, or has read the whole topic; or ``most`` records of each partition, if that is given."""
    bounds = reader.bounds()
    ends = {partition: end for partition, (_, end) in bounds.items()}
    span = count
    while True:
        start = {partition: max(first, end - span) for partition, (first, end) in bounds.items()}
        selection = Selection(choice)
        found = heapq.nlargest(count, _picked(reader, start, ends, selection), key=_time_of)
        is_whole = all(start[partition] == first for partition, (first, _) in bounds.items())
        if len(found) >= count or is_whole or (most is not None and span >= most):
            return _last(found, count)
        span = span * 8 if most is None else min(span * 8, most)


def first_matching(reader: Reader, choice: FlowTest, count: int) -> list[Shown]:
    """Return the first ``count`` flows that fit, oldest first. Few may fit, so this looks eight times further until it
    has found so many, or has read the whole topic."""
    bounds = reader.bounds()
    firsts = {partition: first for partition, (first, _) in bounds.items()}
    span = count
    while True:
        ends = {partition: min(end, first + span) for partition, (first, end) in bounds.items()}
        found = heapq.nsmallest(count, _picked(reader, firsts, ends, Selection(choice)), key=_time_of)
        if len(found) >= count or all(ends[partition] == end for partition, (_, end) in bounds.items()):
            return found
        span *= 8


def _picked(reader: Reader, start: Mapping[int, int], ends: Mapping[int, int], selection: Selection) -> Iterator[Shown]:
    return (shown for record in read_range(reader, start, ends) if (shown := selection.pick(record.value)))


def _time_of(shown: Shown) -> str:
    return shown.flow.timestamp


def last_of_all(readers: Sequence[Reader], choice: FlowTest, count: int) -> list[Shown]:
    """Return the last ``count`` flows that fit, oldest first. A topic is read if those before it have too few."""
    found: list[Shown] = []
    for reader in readers:
        if len(found) < count:
            seen = {shown.flow.id for shown in found}
            found += [shown for shown in last_matching(reader, choice, count) if shown.flow.id not in seen]
    return _last(found, count)


def first_of_all(readers: Sequence[Reader], choice: FlowTest, count: int) -> list[Shown]:
    """Return the first ``count`` flows that fit, oldest first."""
    found = {shown.flow.id: shown for reader in readers for shown in first_matching(reader, choice, count)}
    return heapq.nsmallest(count, found.values(), key=_time_of)


def _last(found: list[Shown], count: int) -> list[Shown]:
    found.sort(key=_time_of)
    return found[-count:] if count else []


def since_matching(
    readers: Sequence[Reader], ends: Sequence[Mapping[int, int]], choice: FlowTest, window: Window
) -> Iterator[Shown]:
    """Yield the flows that fit and whose first packet is in the window, by that packet's time.

    ``ends`` says for each reader where to stop. Kafka's times tell where to begin; but a record's own time is what
    people see, and the order of a topic's partitions means nothing."""

    values = _in_window(readers, ends, choice, window, lambda _, value: value)
    flows = ((time, Shown(decode_flow(value), value)) for time, value in values)
    return _without_repeats(flows, lambda shown: shown.flow.id)


def since_rows(
    readers: Sequence[Reader], ends: Sequence[Mapping[int, int]], choice: FlowTest, window: Window, keep: RowOf
) -> Iterator[list[Any]]:
    """Yield a row for each flow that fits and whose first packet is in the window, by that packet's time.

    Before they are sorted, flows become rows: many more of those fit into memory."""
    values = _in_window(readers, ends, choice, window, lambda flow, _: orjson.dumps([flow.id, *keep(flow)]))
    rows = ((time, orjson.loads(value)) for time, value in values)
    for row in _without_repeats(rows, lambda row: str(row[0])):
        yield row[1:]


def _in_window(
    readers: Sequence[Reader], ends: Sequence[Mapping[int, int]], choice: FlowTest, window: Window, keep: Keep
) -> Iterator[tuple[str, bytes]]:
    """Yield the time of each flow, and what is kept of it, sorted by time. Nothing comes before all were read."""

    is_in_window = window.test()

    def found() -> Iterator[tuple[str, bytes]]:
        for reader, end in zip(readers, ends, strict=True):
            start = reader.at_time(unix_ms(window.since))
            for record in read_range(reader, start, end, window.read_until_ms):
                shown = _matching(record.value, choice)
                if shown is not None and is_in_window(shown.flow.timestamp):
                    yield shown.flow.timestamp, keep(shown.flow, record.value)

    return sort_values(found())


def _without_repeats(values: Iterable[tuple[str, T]], id_of: Callable[[T], str]) -> Iterator[T]:
    """Yield sorted values without repeats. Repeats of a flow have the same time, and so stand together."""
    time, ids = "", set[str]()
    for timestamp, value in values:
        if timestamp != time:
            time, ids = timestamp, set()
        if id_of(value) not in ids:
            ids.add(id_of(value))
            yield value


def follow(
    reader: Reader,
    start: Mapping[int, int],
    choice: FlowTest,
    write: Callable[[Shown], None],
    also: Callable[[], None] = lambda: None,
) -> None:
    """Show flows as they arrive, until interrupted; ``also`` is called between them."""
    for shown in followed(reader, start, choice):
        if shown is None:
            also()
        else:
            write(shown)


def followed(reader: Reader, start: Mapping[int, int], choice: FlowTest) -> Iterator[Shown | None]:
    """Yield flows as they arrive, without end, and None after each read."""
    selection = Selection(choice)
    reader.start(start)
    while True:
        for record in reader.take(_RECORDS_PER_READ, _QUIET_S):
            shown = selection.pick(record.value)
            if shown is not None:
                yield shown
        yield None
