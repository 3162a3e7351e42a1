"""Reads what nodes have said about the policies that they had in force."""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec

from enrich.history.epochs import Epochs
from enrich.wire.in_force import decode_in_force
from streams.kafka.connection import Connection, ReadError
from streams.kafka.ranges import ends_of, read_runs
from streams.kafka.reading import TopicReader

_EARLIER_NS: Final = 3600 * 1_000_000_000
"""How long before a window reading begins. A node says something only when policies about its pods change, so what it
said earlier than that is not known, and neither what it had up to the first change that is read."""
_TYPE: Final = b'"type":"policies"'


def read_epochs(connection: Connection, topic: str, cluster: str, since_ns: int, notes: list[str]) -> Epochs:
    """Return what the nodes of a cluster had in force since a time, as far as the status topic says it.

    ``notes`` gets what a reader of the answer must know."""
    found = Epochs()
    try:
        with contextlib.closing(TopicReader(connection, topic)) as reader:
            starts = reader.at_time(max(0, since_ns - _EARLIER_NS) // 1_000_000)
            for run in read_runs(reader, starts, ends_of(reader), topic=topic):
                for time_ms, value in zip(run.times_ms, run.values, strict=True):
                    if _TYPE in value:
                        add_statement(found, cluster, value, time_ms)
    except ReadError as error:
        notes.append(f"what nodes had in force at each time cannot be read: {error}")
    if found.is_full:
        notes.append("nodes have said too often what they had in force: not all of it is used")
    return found


def add_statement(found: Epochs, cluster: str, value: bytes, time_ms: int) -> None:
    """Add a record of the status topic, if it is such a statement of a node of the cluster."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = decode_in_force(value)
        if record.cluster == cluster:
            found.add(record, time_ms * 1_000_000)
