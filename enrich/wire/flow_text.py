"""The text of a flow record, parted into what repeats and what differs from record to record, without reading its JSON.

A reader of millions of records asks the same questions of each: it answers them once for each distinct text. An
example, of which what is left out stands for itself::

    {"connection":{"src_ip":"10.0.0.1","dest_ip":"10.0.0.2","src_port":40000,"dest_port":5432,...},...,"count":1,
    "timestamp":"2026-11-28T10:00:06.250118402Z","last_timestamp":"2026-11-28T10:00:06.250118402Z",...,"id":"4be0-518"}

The text that repeats is all of it without ``40000``, the count, both times and ``518``. Only plain digits and times are
cut out, each behind its own quoted key, which no string of JSON can hold. So two records with the same repeating text
decode to the same values but for these.

Workers write their records so (:mod:`enrich.render.template`). A record of another form is not parted: it must be
decoded as a whole.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

_SOURCE_PORT: Final = b',"src_port":'
_COUNT: Final = b',"count":'
_FIRST: Final = b',"timestamp":"'
_LAST: Final = b'Z","last_timestamp":"'
_AFTER: Final = b'Z",'
_ID: Final = b',"id":"'
_TIME_LENGTH: Final = len("2026-11-28T10:00:06.250118402")
_SECOND_NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_S: Final = 253_402_300_799
"""The last second of the year 9999; this form cannot write a later one."""


class FlowText(NamedTuple):
    """A record in parts."""

    repeating: bytes
    time: bytes
    """When the first packet was, as ``2026-11-28T10:00:06.250118402``: texts of this form sort as their times do."""
    last_time: bytes
    number: bytes
    """The number in the ring, which ends the id."""


def part_flow(value: bytes) -> FlowText | None:
    """Return the parts of a record; None if it does not have the form in which workers write records."""
    count = value.rfind(_COUNT)
    first = value.find(_FIRST, count)
    time_at = first + len(_FIRST)
    last_at = time_at + _TIME_LENGTH + len(_LAST)
    rest_at = last_at + _TIME_LENGTH
    id_at = value.find(_ID, rest_at) + len(_ID)
    id_end = value.find(b'"', id_at)
    number_at = value.rfind(b"-", id_at, id_end) + 1
    time, last_time = value[time_at : time_at + _TIME_LENGTH], value[last_at:rest_at]
    number = value[number_at:id_end]
    if (
        count < 0 or first < 0 or id_at < rest_at or number_at <= id_at
        or not value[count + len(_COUNT) : first].isdigit()
        or not number.isdigit()
        or value[time_at + _TIME_LENGTH : last_at] != _LAST
        or value[rest_at : rest_at + len(_AFTER)] != _AFTER
        # Nothing but the text between the times has a quote, so both are strings of JSON as a whole.
        or value.count(b'"', time_at, rest_at) != _LAST.count(b'"') or b"\\" in time or b"\\" in last_time
    ):  # fmt: skip
        return None
    port = value.find(_SOURCE_PORT, 0, count)
    if port >= 0:
        port += len(_SOURCE_PORT)
        end = value.find(b",", port, count)
        if value[port:end].isdigit():
            repeating = b"".join((value[:port], value[end:count], value[rest_at:number_at], value[id_end:]))
            return FlowText(repeating, time, last_time, number)
    return FlowText(b"".join((value[:count], value[rest_at:number_at], value[id_end:])), time, last_time, number)


def time_text(ns: int) -> bytes:
    """Return a time in the form of :attr:`FlowText.time`."""
    seconds, rest = divmod(ns, _SECOND_NS)
    return f"{datetime.fromtimestamp(min(seconds, _LAST_S), UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}".encode()


def nanoseconds(time: bytes) -> int:
    """Return the nanoseconds since the epoch of a time. Raises ValueError if it does not have the form of
    :attr:`FlowText.time`, by which times sort."""
    whole, _, rest = time.decode().partition(".")
    passed = datetime.fromisoformat(f"{whole}+00:00") - _EPOCH
    ns = (passed.days * 86_400 + passed.seconds) * _SECOND_NS + int(rest)
    if time_text(ns) != time:
        raise ValueError(f"{time!r} is not a time as records have it")
    return ns
