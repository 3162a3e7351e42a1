"""What `weir observe` does: read flows from chosen offsets, keep those that fit, and hand them to a writer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

from enrich.wire.flow import Flow, decode_flow
from streams.cli.filters import Filters

_RECORDS_PER_READ: Final = 1000
_QUIET_S: Final = 0.2
_REMEMBERED_IDS: Final = 100_000
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

    def start(self, offsets: Mapping[int, int]) -> None: ...

    def take(self, most: int, wait_s: float) -> list[Any]: ...


class Shown(NamedTuple):
    """A flow to show."""

    flow: Flow
    value: bytes
    """The record as it is on Kafka, with keys that this version may not know."""


def parse_since(text: str, now: datetime) -> datetime:
    """Return the time that ``text`` means: ``90s``, ``5m``, ``2h`` or ``3d`` before ``now``, or an RFC 3339 time.

    Raises ValueError."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.replace(".", "", 1).isdigit():
        return now - timedelta(seconds=float(number) * _UNITS[unit])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration like 90s, 5m, 2h, 3d nor a time like {now:%FT%TZ}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Selection:
    """Decodes records, filters them, and drops repeats: a worker that is killed sends some of its records twice."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._seen: OrderedDict[str, None] = OrderedDict()

    def pick(self, value: bytes) -> Shown | None:
        """Return the flow in a Kafka value if it is to be shown. A value that is not a flow record is skipped,
        because any client that may write to the topic can put one there."""
        try:
            flow = decode_flow(value)
        except ValueError:
            return None
        if not self._filters.match(flow) or flow.id in self._seen:
            return None
        self._seen[flow.id] = None
        if len(self._seen) > _REMEMBERED_IDS:
            self._seen.popitem(last=False)
        return Shown(flow, value)


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
            found.sort(key=lambda shown: shown.flow.timestamp)
            return found[-count:] if count else []
        span *= 8


def follow(reader: Reader, start: Mapping[int, int], filters: Filters, write: Callable[[Shown], None]) -> None:
    """Show flows as they arrive, until interrupted."""
    selection = Selection(filters)
    reader.start(start)
    while True:
        for record in reader.take(_RECORDS_PER_READ, _QUIET_S):
            shown = selection.pick(record.value)
            if shown is not None:
                write(shown)
