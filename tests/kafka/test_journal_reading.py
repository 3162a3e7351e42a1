"""Commands read the journal: all of it, from a time on, of one cluster, and past records that are not entries."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.model import Namespace
from enrich.wire.journal import DAY_NS, GAP, REPEAT_NS, REPEATED_NS, JournalEntry, encode_entry, raw_state
from enrich.wire.topics import Topics, topics
from streams.journal.reading import read_journal
from streams.kafka.connection import NoTopicError, ReadError
from streams.kafka.records import Record
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka
NOW = time.time_ns()
MANY = 100_000


def version(seen_ns: int, team: str = "a", cluster: str = "c1") -> JournalEntry:
    """Return a version of the namespace shop."""
    made = Namespace("shop", "u1", {"team": team})
    return JournalEntry(
        cluster=cluster, kind="Namespace", name="shop", uid="u1", seen_ns=seen_ns, object=raw_state(made)
    )


def write(site: Site, entries: Sequence[JournalEntry | bytes]) -> Topics:
    """Make the topic and write to it, each entry at its time."""
    names = topics(site.prefix, 4)
    config = {**names.journal.config, "message.timestamp.type": "CreateTime"}  # a test cannot wait for a month
    made = NewTopic(names.journal.name, names.journal.partitions, config=config)
    admin = AdminClient(site.connection)
    admin.create_topics([made])[names.journal.name].result(120)
    producer = Producer({**site.connection, "queue.buffering.max.messages": 2 * MANY})
    for one in entries:
        if isinstance(one, bytes):
            producer.produce(names.journal.name, one, b"c1/Namespace//shop")
        else:
            producer.produce(names.journal.name, encode_entry(one), one.key, timestamp=one.seen_ns // 1_000_000)
    assert producer.flush(120) == 0
    return names


def test_the_whole_journal_is_read_in_order_past_records_that_are_not_entries(site: Site) -> None:
    entries = [version(NOW + number, f"t{number}") for number in range(50)]
    names = write(site, [*entries[:20], b"{", b"", *entries[20:]])
    bad: list[tuple[int, str]] = []

    def on_bad(record: Record, why: str) -> None:
        bad.append((record.offset, why))

    assert list(read_journal(site.connection, names, "c1", on_bad=on_bad)) == entries
    assert [offset for offset, _ in bad] == [20, 21]
    assert all(why for _, why in bad)


def test_an_entry_that_was_ahead_of_its_time_is_not_believed_later(site: Site) -> None:
    names = write(site, [version(NOW - DAY_NS, "a")])
    producer, early = Producer(site.connection), version(NOW - DAY_NS // 2, "b")
    producer.produce(names.journal.name, encode_entry(early), early.key, timestamp=(NOW - DAY_NS) // 1_000_000)
    assert producer.flush(120) == 0
    bad: list[str] = []
    found = list(read_journal(site.connection, names, "c1", on_bad=lambda _record, why: bad.append(why)))
    assert found == [version(NOW - DAY_NS, "a")]
    assert bad == ["its time is 43200 s in the future"]


def test_a_window_begins_with_the_states_before_it(site: Site) -> None:
    old, before, inside = version(NOW - 3 * REPEAT_NS), version(NOW - REPEAT_NS), version(NOW)
    names = write(site, [old, before, inside])
    assert list(read_journal(site.connection, names, since_ns=NOW - DAY_NS)) == [before, inside]
    assert list(read_journal(site.connection, names, since_ns=NOW - 4 * REPEAT_NS)) == [old, before, inside]


def test_what_retention_has_removed_is_a_gap_until_every_state_is_repeated(site: Site) -> None:
    entries = [version(NOW + number) for number in range(3)]
    names = write(site, entries)
    place = TopicPartition(names.journal.name, 0, 2)
    admin = AdminClient(site.connection)
    admin.delete_records([place])[place].result(120)
    gap, *rest = read_journal(site.connection, names)
    assert (gap.kind, gap.since_ns, gap.seen_ns) == (GAP, 0, entries[2].seen_ns + REPEATED_NS)
    assert rest == entries[2:]


def test_several_clusters_need_a_choice(site: Site) -> None:
    names = write(site, [version(NOW, cluster="c1"), version(NOW, cluster="c2")])
    assert [one.cluster for one in read_journal(site.connection, names, "c2")] == ["c2"]
    with pytest.raises(ReadError, match=r"several clusters \(c1, c2"):
        list(read_journal(site.connection, names))


def test_no_topic_and_an_empty_one_are_told_apart(site: Site) -> None:
    with pytest.raises(NoTopicError, match="there is no topic"):
        list(read_journal(site.connection, topics(site.prefix, 4)))
    assert list(read_journal(site.connection, write(site, []))) == []


def test_a_hundred_thousand_entries_take_seconds(site: Site) -> None:
    names = write(site, [version(NOW + number, f"t{number % 7}") for number in range(MANY)])
    began = time.process_time()
    assert sum(1 for _ in read_journal(site.connection, names)) == MANY
    assert time.process_time() - began < 15
