"""Pairs read back from a real topic: by hours, added up, and honest about what is not kept."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from enrich.history import pair_hours
from enrich.wire.pair import PairEnd, PairKey
from enrich.wire.pair_place import counts_key, names_key
from enrich.wire.pair_records import CountsHeader, Names, encode_counts, encode_names
from enrich.wire.topics import Topics, topics
from streams.cli.pairs_reading import PairsReading, read_pairs
from streams.kafka.connection import NoTopicError
from streams.kafka.topics import prepare_topics

pytestmark = pytest.mark.kafka

HOUR = int(time.time()) // 3600
WEB = PairEnd(profile="0123456789abcdef", namespace="shop", workload="Deployment/web")


def key_to(block: str) -> PairKey:
    return PairKey(subject=WEB, peer=PairEnd(block=block), direction="egress", protocol=6, port=443, verdict="allow",
                   reason="policy")  # fmt: skip


ONE, TWO = key_to("198.51.100.1/32"), key_to("198.51.100.2/32")


class Written:
    """A topic of pairs with a prefix of its own."""

    def __init__(self, broker: str, partitions: int = 1) -> None:
        self.connection = {"bootstrap.servers": broker}
        self.topics: Topics = topics(f"pairs{secrets.token_hex(3)}", 1)
        topic = replace(self.topics.pairs, partitions=partitions)
        assert prepare_topics(self.connection, [topic], 0, threading.Event())
        self._producer = Producer({**self.connection, "transactional.id": secrets.token_hex(4)})
        self._producer.init_transactions(120)

    def write(self, records: list[tuple[bytes, bytes]], partition: int = 0, *, commit: bool = True) -> None:
        self._producer.begin_transaction()
        for key, value in records:
            self._producer.produce(self.topics.pairs.name, value, key, partition)
        if commit:
            self._producer.commit_transaction(120)
        else:
            self._producer.flush(120)
            self._producer.abort_transaction(120)

    def read(self, since: int = HOUR - 5, until: int = HOUR + 1, **more: Any) -> dict[tuple[int, PairKey], int]:
        found = read_pairs(self.connection, self.topics, since, until, **more)
        return {(pair.hour, pair.key): pair.verdicts for pair in found}


def names(segment: str, *keys: PairKey, cluster: str = "c1") -> tuple[bytes, bytes]:
    found = Names(cluster=cluster, segment=segment, chunk=0, pairs=[(key, (f"{segment}-1",)) for key in keys])
    return names_key(cluster, segment, 0), encode_names(found)


def counts(segment: str, hour: int, *verdicts: int, cluster: str = "c1") -> tuple[bytes, bytes]:
    header = CountsHeader(cluster=cluster, segment=segment, chunk=0, hour=hour, pairs=len(verdicts))
    ones = np.ones(len(verdicts), "u8")
    columns = {"place": np.arange(len(verdicts)), "verdicts": np.array(verdicts), "packets": np.array(verdicts) * 2,
               "first": ones, "last": ones * 2}  # fmt: skip
    return counts_key(cluster, segment, hour, 0), encode_counts(header, columns)


@pytest.fixture
def written(broker: str) -> Written:
    return Written(broker)


def test_later_records_replace_earlier_ones_and_segments_are_added_up(written: Written) -> None:
    written.write([names("a", ONE, TWO), counts("a", HOUR, 5, 7), counts("a", HOUR - 1, 1, 1)])
    written.write([counts("a", HOUR, 6, 9)])
    written.write([names("b", TWO), counts("b", HOUR, 100)])

    assert written.read() == {(HOUR - 1, ONE): 1, (HOUR - 1, TWO): 1, (HOUR, ONE): 6, (HOUR, TWO): 109}
    assert written.read(HOUR, HOUR + 1) == {(HOUR, ONE): 6, (HOUR, TWO): 109}
    (pair,) = [pair for pair in read_pairs(written.connection, written.topics, HOUR, HOUR + 1) if pair.key == TWO]
    assert pair.packets == 218
    assert set(pair.examples) <= {"a-1", "b-1"}


def test_a_transaction_that_was_aborted_counts_nothing(written: Written) -> None:
    written.write([names("a", ONE), counts("a", HOUR, 5)])
    written.write([counts("a", HOUR, 500)], commit=False)

    assert written.read() == {(HOUR, ONE): 5}


def test_other_clusters_are_left_out(written: Written) -> None:
    written.write([names("a", ONE), counts("a", HOUR, 5)])
    written.write([names("a", ONE, cluster="c2"), counts("a", HOUR, 50, cluster="c2")])

    assert written.read(cluster="c1") == {(HOUR, ONE): 5}
    assert written.read(cluster="c2") == {(HOUR, ONE): 50}


def test_it_says_from_when_on_the_answer_is_complete(written: Written) -> None:
    written.write([names("a", ONE), counts("a", HOUR - 3, 5), counts("gone", HOUR - 2, 5)])

    reading = read_pairs(written.connection, written.topics, HOUR - 5, HOUR + 1)
    assert [pair.hour for pair in reading] == [HOUR - 3]

    # The topic begins in this hour, so that what was before is not known.
    assert reading.complete_since_hour == HOUR + 1


def test_malformed_records_are_skipped_and_counted(written: Written) -> None:
    good = [names("a", ONE), counts("a", HOUR, 5)]
    hour = b"%d" % HOUR
    written.write([
        (b"x", b"x"),
        (b"c1/b/names/0", b"{}"), counts("b", HOUR, 7),
        *good,
        (b"c1/c/" + hour + b"/0", good[0][1]),
        (b"c1/d/" + hour + b"/0", good[1][1]),
    ])  # fmt: skip

    reading = read_pairs(written.connection, written.topics, HOUR, HOUR + 1)

    assert [pair.verdicts for pair in reading] == [5]
    assert reading.unreadable == 4, "no key; no names; names instead of counts; the counts of another segment"


def test_the_pairs_of_an_hour_are_there_before_the_topic_is_read_further(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is kept for a day and two hours of the topic, not for all of it."""
    monkeypatch.setattr(pair_hours, "LATE_MS", -4 * pair_hours.HOUR_MS)  # so hours end before they begin
    written.write([names("a", ONE), counts("a", HOUR, 5), counts("a", HOUR + 1, 6), counts("a", HOUR, 7)])

    reading = PairsReading(written.connection, written.topics, HOUR, HOUR + 2)
    assert list(reading) == []
    assert reading.late == 3


def test_a_topic_of_several_partitions_is_read_in_the_order_of_time(broker: str) -> None:
    written = Written(broker, 3)
    for number in range(6):
        written.write([names(f"s{number}", ONE), counts(f"s{number}", HOUR, 1)], number % 3)

    assert written.read() == {(HOUR, ONE): 6}


def test_a_topic_that_does_not_exist_is_named(broker: str) -> None:
    missing = topics("nowhere", 1)

    with pytest.raises(NoTopicError, match=r"nowhere\.pairs.*WEIR_PAIRS=1"):
        read_pairs({"bootstrap.servers": broker}, missing, HOUR, HOUR + 1)
