"""Reads a record as strictly as forms and destinations count on it, and the time of a record in any form."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import orjson

from enrich.wire.flow import Flow, decode_flow
from streams.forms.parts import milliseconds

_TIME: Final = re.compile(r"(?:19[7-9]|20[0-9]|21[0-9])[0-9]-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z")
"""The times of a record. OTLP has no year before 1970, and 64 bits of nanoseconds end in 2262."""
_CEF_TIME: Final = re.compile(rb"CEF:0(?:\|(?:[^|\\]|\\.)*){6}\|rt=([0-9]{1,15})(?: |$)")
"""The first key of the extension, after the seven fields of the header, in which a bar is escaped."""


def read_record(value: bytes) -> Flow:
    """Read a record. Raises ValueError for bytes that are not one, or whose times are not as the enricher writes
    them."""
    flow = decode_flow(value)
    for text in (flow.timestamp, flow.last_timestamp):
        if not _TIME.fullmatch(text):
            raise ValueError(f"{text[:40]!r} is not a time in UTC with nine decimals")
        datetime.fromisoformat(text[:19])  # no month 13
    return flow


def time_ms(line: bytes) -> int | None:
    """Return the time of a record in any form, in milliseconds since the epoch; None if it cannot be read."""
    found = _CEF_TIME.match(line)
    if found:
        return int(found[1])
    try:
        record = orjson.loads(line)
        time = record.get("time")  # of OCSF
        return time if isinstance(time, int) else milliseconds(record.get("timestamp") or record["@timestamp"])
    except (ValueError, AttributeError, KeyError, OverflowError):
        return None
