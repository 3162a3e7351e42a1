"""What a worker says of its counting: up to when, without a break, and that it is behind."""

from __future__ import annotations

from enrich.wire.pair_coverage import Coverage, decode_coverage
from streams.worker import pair_spans
from streams.worker.pair_spans import Spans


class Clock:
    """A clock that a test sets, and spans by it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.spans = Spans("c1", lambda: self.now)

    def record(self, **marks: int) -> Coverage:
        """Write the marks of partitions ``p0``, ``p1``, …, and return the record."""
        named = {int(name[1:]): mark for name, mark in marks.items()}
        self.spans.advance(named)
        _, value = self.spans.record(named)
        self.spans.written(named)
        return decode_coverage(value)


def test_a_time_is_counted_once_everything_that_kafka_had_then_is_counted() -> None:
    clock = Clock()
    clock.spans.begin(3, 10)
    clock.now = 1_020
    clock.spans.note_ends(1_020, dict.fromkeys(range(12), 50))
    assert clock.record(p3=49).spans[0] == (span := clock.record(p3=49).spans[0])
    assert (span.partition, span.since_offset, span.until_offset, span.since_s, span.until_s) == (
        3,
        10,
        49,
        1_000,
        1_000,
    )

    clock.now = 1_100
    record = clock.record(p3=50)
    assert record.partitions == 12
    assert (record.spans[0].until_offset, record.spans[0].until_s) == (50, 1_020), "not the time of the write"


def test_a_partition_without_inputs_is_counted_too() -> None:
    clock = Clock()
    clock.spans.begin(0, 0)
    clock.spans.note_ends(1_000, {0: 0})
    clock.record(p0=0)
    assert not clock.spans.is_due
    clock.now += pair_spans.WRITE_S
    assert clock.spans.is_due
    clock.spans.note_ends(clock.now, {0: 0})
    assert clock.record(p0=0).spans[0].until_s == clock.now


def test_a_partition_that_was_left_stays_in_the_record() -> None:
    clock = Clock()
    clock.spans.begin(0, 5)
    clock.spans.begin(1, 5)
    clock.record(p0=8, p1=9)
    clock.spans.end(0, 8)
    spans = clock.record(p1=12).spans
    assert [(span.partition, span.until_offset) for span in spans] == [(0, 8), (1, 12)]


def test_a_new_record_goes_on_where_the_last_one_ended() -> None:
    clock = Clock()
    clock.spans.begin(0, 5)
    first = clock.record(p0=9)
    clock.now += pair_spans.DAY_S + 1
    clock.spans.note_ends(clock.now, {0: 20})
    last = clock.record(p0=20)
    after = clock.record(p0=25)
    assert first.segment == last.segment != after.segment
    assert (after.spans[0].since_offset, after.spans[0].since_s) == (20, last.spans[0].until_s)


def test_what_was_dropped_is_not_said_to_be_counted() -> None:
    clock = Clock()
    clock.spans.begin(0, 5)
    first = clock.record(p0=9)
    clock.spans.clear()
    clock.spans.begin(0, 9)
    second = clock.record(p0=11)
    assert first.segment != second.segment
    assert [span.since_offset for span in second.spans] == [9]


def test_a_worker_is_behind_by_what_is_not_counted_of_its_partitions() -> None:
    clock = Clock()
    assert clock.spans.behind_s() == 0
    clock.spans.begin(0, 5)
    clock.spans.begin(1, 5)
    clock.now += 100
    clock.spans.note_ends(clock.now, {0: 6, 1: 6})
    clock.record(p0=6, p1=6)
    assert clock.spans.behind_s() == 0
    clock.now += 50
    clock.spans.note_ends(clock.now, {0: 6, 1: 7})
    clock.record(p0=6, p1=6)
    assert clock.spans.behind_s() == 50, "one input of partition 1 is not counted"

    clock.spans.clear()
    clock.now += 10
    assert clock.spans.behind_s() == 60, "it waits to be taken over again"
    clock.spans.begin(1, 6)
    clock.spans.end(0)
    assert clock.spans.behind_s() == 0
    clock.spans.wait([2])
    clock.now += 10
    assert clock.spans.behind_s() == 10
