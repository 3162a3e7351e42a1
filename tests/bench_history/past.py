"""Writes the past of a cluster to real topics: a week of journal and of pairs, for the commands to read."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
from confluent_kafka import Producer

from enrich.wire.journal import HEARTBEAT, JournalEntry, encode_entry
from enrich.wire.pair import HOUR_NS, PairKey
from enrich.wire.pair_place import counts_key, names_key
from enrich.wire.pair_records import CHUNK, CountsHeader, Names, encode_counts, encode_names
from enrich.wire.topics import topics
from streams.kafka.topics import prepare_topics

_HOURS_OF_SEGMENT: Final = 24
_HOUR_MS: Final = HOUR_NS // 1_000_000


def write_journal(servers: str, prefix: str, entries: Iterable[JournalEntry], cluster: str, until_ns: int) -> None:
    """Make the topics of a prefix, and write the journal, whose writer lives until a time."""
    connection = {"bootstrap.servers": servers}
    names = topics(prefix, 1)
    # The broker would note when the past is written here, and readers pass over counts that are a day late.
    pairs = replace(names.pairs, config={**names.pairs.config, "message.timestamp.type": "CreateTime"})
    assert prepare_topics(connection, [names.journal, pairs, names.endpoints, names.denied], 0, threading.Event())
    alive = JournalEntry(cluster=cluster, kind=HEARTBEAT, seen_ns=until_ns)
    producer = Producer(connection)
    for one in (*entries, alive):
        mine = msgspec.structs.replace(one, cluster=cluster)
        producer.produce(names.journal.name, encode_entry(mine), mine.key, timestamp=mine.seen_ns // 1_000_000)
        producer.poll(0)
    assert producer.flush(60) == 0


def write_pairs(servers: str, prefix: str, keys: Sequence[PairKey], hours: range, verdicts: int, cluster: str) -> None:
    """Write that each combination had so many verdicts in each of some hours, as a worker would that runs on: with a
    new segment each day."""
    topic, producer = topics(prefix, 1).pairs.name, Producer({"bootstrap.servers": servers})
    chunks = [keys[begin : begin + CHUNK] for begin in range(0, len(keys), CHUNK)]
    segment = ""
    for hour in hours:
        at_ms = (hour + 1) * _HOUR_MS - 1
        begins = not (hour - hours.start) % _HOURS_OF_SEGMENT
        segment = secrets.token_hex(8) if begins else segment
        for number, chunk in enumerate(chunks):
            if begins:
                named = Names(cluster=cluster, segment=segment, chunk=number, pairs=[(key, ("r-1",)) for key in chunk])
                producer.produce(topic, encode_names(named), names_key(cluster, segment, number), timestamp=at_ms)
            header = CountsHeader(cluster=cluster, segment=segment, chunk=number, hour=hour, pairs=len(chunk))
            counts, ones = np.full(len(chunk), verdicts, "u8"), np.ones(len(chunk), "u8")
            columns = {
                "place": np.arange(len(chunk)), "verdicts": counts, "packets": counts, "first": ones,
                "last": ones * 3000,
            }  # fmt: skip
            key = counts_key(cluster, segment, hour, number)
            producer.produce(topic, encode_counts(header, columns), key, timestamp=at_ms)
            producer.poll(0)
    assert producer.flush(60) == 0
