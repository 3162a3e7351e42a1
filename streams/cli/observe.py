"""What `weir observe` does: read flows from chosen offsets, keep those that fit, hand them to a writer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import orjson

from streams.cli.filters import Filters, Flow

_MOST: Final = 1000
_QUIET_S: Final = 0.2
_REMEMBERED: Final = 100_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Record(Protocol):
    """What a reader gives; see :class:`streams.kafka.records.Record`."""

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def value(self) -> bytes: ...


class Reader(Protocol):
    """See :class:`streams.kafka.reading.TopicReader`."""

    def bounds(self) -> dict[int, tuple[int, int]]: ...

    def start(self, offsets: Mapping[int, int]) -> None: ...

    def take(self, most: int, wait_s: float) -> list[Any]: ...


def parse_since(text: str, now: datetime) -> datetime:
    """``90s``, ``5m``, ``2h``, ``3d`` before ``now``, or an RFC 3339 time. Raises ValueError."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.replace(".", "", 1).isdigit():
        return now - timedelta(seconds=float(number) * _UNITS[unit])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration like 90s, 5m, 2h, 3d nor a time like {now:%FT%TZ}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Selection:
    """Decodes, filters, and drops what came before: a worker that is killed sends a part of its records twice."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._seen: OrderedDict[str, None] = OrderedDict()

    def pick(self, value: bytes) -> Flow | None:
        """The record in a Kafka value, if it is to be shown. What is no JSON object is not ours and is passed over."""
        try:
            flow = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(flow, dict) or not self._filters.match(flow):
            return None
        name = flow.get("id")
        if name is not None:
            if name in self._seen:
                return None
            self._seen[name] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return flow


def read_range(reader: Reader, start: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[Record]:
    """All records from ``start`` up to, not including, ``ends``; offsets by partition."""
    left = {partition: end for partition, end in ends.items() if start[partition] < end}
    reader.start({partition: start[partition] for partition in left})
    while left:
        taken = reader.take(_MOST, _QUIET_S)
        if not taken:
            # What retention has removed meanwhile never comes; and this fails where Kafka has gone away.
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


def last_matching(reader: Reader, filters: Filters, count: int) -> list[Flow]:
    """The last ``count`` flows that fit, oldest first: looks further back until there are so many, or no more."""
    bounds = reader.bounds()
    ends = {partition: end for partition, (_, end) in bounds.items()}
    span = count
    while True:
        start = {partition: max(first, end - span) for partition, (first, end) in bounds.items()}
        selection = Selection(filters)
        found = [flow for record in read_range(reader, start, ends) if (flow := selection.pick(record.value))]
        if len(found) >= count or all(start[partition] == first for partition, (first, _) in bounds.items()):
            found.sort(key=lambda flow: str(flow.get("timestamp", "")))
            return found[-count:] if count else []
        span *= 8


def follow(reader: Reader, start: Mapping[int, int], filters: Filters, write: Callable[[Flow], None]) -> None:
    """Show what comes, until interrupted."""
    selection = Selection(filters)
    reader.start(start)
    while True:
        for record in reader.take(_MOST, _QUIET_S):
            flow = selection.pick(record.value)
            if flow is not None:
                write(flow)
