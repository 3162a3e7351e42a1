"""Writes the past of a cluster to real topics: entries of the journal, and pairs of one hour."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Producer

from enrich.wire.journal import HEARTBEAT, JournalEntry, encode_entry
from enrich.wire.pair import HOUR_NS, PairKey
from enrich.wire.pair_place import counts_key, names_key
from enrich.wire.pair_records import CountsHeader, Names, encode_counts, encode_names
from enrich.wire.topics import Topics, topics
from streams.kafka.topics import prepare_topics
from tests.enrich.history.journals import CLUSTER, START_NS
from tests.kafka.site import Site

HOUR = START_NS // HOUR_NS + 1
"""The hour of the pairs: it begins an hour after the journal, and is over."""


def write_past(site: Site, journal: Sequence[JournalEntry], pairs: Sequence[tuple[PairKey, int]]) -> Topics:
    """Make the topics, and write the journal, whose writer is alive, and each pair with its count of verdicts."""
    names = topics(site.prefix, 1)
    made = [names.journal, names.pairs, names.endpoints, names.denied, names.flows]
    assert prepare_topics(site.connection, made, 0, threading.Event())
    producer = Producer({**site.connection, "transactional.id": secrets.token_hex(4)})
    producer.init_transactions(120)
    producer.begin_transaction()
    alive = JournalEntry(cluster=CLUSTER, kind=HEARTBEAT, seen_ns=time.time_ns())
    for one in (*journal, alive):
        producer.produce(names.journal.name, encode_entry(one), one.key, timestamp=one.seen_ns // 1_000_000)
    segment, count = secrets.token_hex(4), len(pairs)
    named = Names(cluster=CLUSTER, segment=segment, chunk=0, pairs=[(key, ("r-1",)) for key, _ in pairs])
    producer.produce(names.pairs.name, encode_names(named), names_key(CLUSTER, segment, 0))
    header = CountsHeader(cluster=CLUSTER, segment=segment, chunk=0, hour=HOUR, pairs=count)
    verdicts, ones = np.array([number for _, number in pairs], "u8"), np.ones(count, "u8")
    columns = {
        "place": np.arange(count), "verdicts": verdicts, "packets": verdicts, "first": ones, "last": ones * 600,
    }  # fmt: skip
    producer.produce(names.pairs.name, encode_counts(header, columns), counts_key(CLUSTER, segment, HOUR, 0))
    producer.commit_transaction(120)
    return names
