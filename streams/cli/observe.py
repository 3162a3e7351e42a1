"""What `weir observe` does: read flows from chosen offsets, keep those that fit, and hand them to a writer.

Denies and audits are in two topics: with all other flows, and for longer in a topic of their own. What the first has no
longer is read from the second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

from enrich.wire.flow import Flow, decode_flow
from streams.cli.filters import Filters
from streams.cli.sorting import sort_values

_RECORDS_PER_READ: Final = 1000
_QUIET_S: Final = 0.2
_REMEMBERED: Final = 100_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Record(Protocol):
    """A record as a reader gives it; see :class:`streams.kafka.records.Record`."""

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def value(self) -> bytes: ...


class Reader(Protocol):
    """Reads a topic; see :class:`streams.kafka.reading.TopicReader`."""

    def bounds(self) -> dict[int, tuple[int, int]]: ...

    def at_time(self, timestamp_ms: int) -> dict[int, int]: ...

    def start(self, offsets: Mapping[int, int]) -> None: ...

    def take(self, most: int, wait_s: float) -> list[Any]: ...

    def ended(self) -> Collection[int]: ...


class Shown(NamedTuple):
    """A flow to show."""

    flow: Flow
    value: bytes
    """The record as it is on Kafka, with keys that this version may not know."""


def parse_since(text: str, now: datetime) -> datetime:
    """Return the time that ``text`` means: ``90s``, ``5m``, ``2h`` or ``3d`` before ``now``, or an RFC 3339 time.

    Raises ValueError."""
    number, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS and number.replace(".", "", 1).isdigit():
            return now - timedelta(seconds=float(number) * _UNITS[unit])
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is too far away: no calendar has that day") from None
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration like 90s, 5m, 2h, 3d nor a time like {now:%FT%TZ}") from None


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
    """Decodes records, filters them, and drops repeats."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._keys = LastKeys()

    def pick(self, value: bytes) -> Shown | None:
        """Return the flow in a Kafka value if it is to be shown. A value that is not a flow record is skipped,
        because any client that may write to the topic can put one there."""
        shown = _matching(value, self._filters)
        return None if shown is None or self._keys.is_repeat(shown.flow.id) else shown


def _matching(value: bytes, filters: Filters) -> Shown | None:
    try:
        flow = decode_flow(value)
        return Shown(flow, value) if flow.logged and filters.match(flow) else None
    except ValueError:
        return None


def read_range(reader: Reader, start: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[Record]:
    """Yield all records from ``start`` up to, not including, ``ends``. Both are offsets by partition."""
    left = {partition: end for partition, end in ends.items() if start[partition] < end}
    reader.start({partition: start[partition] for partition in left})
    while left:
        taken = reader.take(_RECORDS_PER_READ, _QUIET_S)
        if not taken:
            # Records that retention has removed meanwhile never come. This also raises if Kafka is unreachable.
            bounds = reader.bounds()
            left = {partition: end for partition, end in left.items() if bounds[partition][0] < end}
        for record in taken:
            end = left.get(record.partition)
            if end is None:
                continue
            if record.offset < end:
                yield record
            if record.offset >= end - 1:
                del left[record.partition]
        # The last offsets may be a transaction's mark, or compacted: no record ever comes from there.
        for partition in reader.ended():
            left.pop(partition, None)


def last_matching(reader: Reader, filters: Filters, count: int) -> list[Shown]:
    """Return the last ``count`` flows that fit, oldest first. Few may fit, so this looks eight times further back until
    it has found so many, or has read the whole topic."""
    bounds = reader.bounds()
    ends = {partition: end for partition, (_, end) in bounds.items()}
    span = count
    while True:
        start = {partition: max(first, end - span) for partition, (first, end) in bounds.items()}
        selection = Selection(filters)
        found = [shown for record in read_range(reader, start, ends) if (shown := selection.pick(record.value))]
        if len(found) >= count or all(start[partition] == first for partition, (first, _) in bounds.items()):
            return _last(found, count)
        span *= 8


def last_of_all(readers: Sequence[Reader], filters: Filters, count: int) -> list[Shown]:
    """Return the last ``count`` flows that fit, oldest first. A topic is read if those before it have too few."""
    found: list[Shown] = []
    for reader in readers:
        if len(found) < count:
            seen = {shown.flow.id for shown in found}
            found += [shown for shown in last_matching(reader, filters, count) if shown.flow.id not in seen]
    return _last(found, count)


def _last(found: list[Shown], count: int) -> list[Shown]:
    found.sort(key=lambda shown: shown.flow.timestamp)
    return found[-count:] if count else []


def since_matching(
    readers: Sequence[Reader], ends: Sequence[Mapping[int, int]], filters: Filters, since: datetime
) -> Iterator[Shown]:
    """Yield the flows that fit and whose first packet is not older than ``since``, by that packet's time.

    ``ends`` says for each reader where to stop. Kafka's times tell where to begin; but a record's own time is what
    people see, and the order of a topic's partitions means nothing."""
    earliest = f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"

    def found() -> Iterator[tuple[str, bytes]]:
        for reader, end in zip(readers, ends, strict=True):
            for record in read_range(reader, reader.at_time(unix_ms(since)), end):
                shown = _matching(record.value, filters)
                if shown is not None and shown.flow.timestamp >= earliest:
                    yield shown.flow.timestamp, record.value

    return _without_repeats(sort_values(found()))


def _without_repeats(values: Iterable[tuple[str, bytes]]) -> Iterator[Shown]:
    """Yield the flows of sorted values. Repeats of a flow have the same time, and so stand together."""
    time, ids = "", set[str]()
    for timestamp, value in values:
        if timestamp != time:
            time, ids = timestamp, set()
        flow = decode_flow(value)
        if flow.id not in ids:
            ids.add(flow.id)
            yield Shown(flow, value)


def follow(
    reader: Reader,
    start: Mapping[int, int],
    filters: Filters,
    write: Callable[[Shown], None],
    also: Callable[[], None] = lambda: None,
) -> None:
    """Show flows as they arrive, until interrupted; ``also`` is called between them."""
    selection = Selection(filters)
    reader.start(start)
    while True:
        for record in reader.take(_RECORDS_PER_READ, _QUIET_S):
            shown = selection.pick(record.value)
            if shown is not None:
                write(shown)
        also()
