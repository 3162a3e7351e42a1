"""When pairs were counted: spans of several workers are put together, and holes are found."""

from __future__ import annotations

import itertools

import pytest

from enrich.history.counted_time import CountedTime, Missed
from enrich.wire.pair_coverage import ALL_CLUSTERS, CountedSpan, Coverage

_segments = map(str, itertools.count())


def counted(*spans: tuple[int, int, int, int, int], partitions: int = 1, cluster: str = "c1") -> Coverage:
    """Spans: partition, offsets from and to, seconds from and to."""
    made = tuple(CountedSpan(*span) for span in spans)
    return Coverage(cluster=cluster, segment=next(_segments), partitions=partitions, spans=made)


def holes(*records: Coverage, since: int = 100, until: int = 200, cluster: str = "c1") -> list[tuple[int, int]]:
    for order in (records, records[::-1]):
        time = CountedTime()
        for record in order:
            time.take(record)
        found = time.holes(cluster, since, until)
    return [(one.since_s, one.until_s) for one in found]


def test_without_a_record_nothing_was_counted() -> None:
    assert holes() == [(100, 200)]
    assert holes(since=200) == []


def test_a_worker_that_counted_all_the_time_leaves_no_hole() -> None:
    assert holes(counted((0, 7, 9, 90, 200))) == []
    assert holes(counted((0, 7, 9, 90, 190))) == [(190, 200)], "it has stopped"
    assert holes(counted((0, 7, 9, 150, 200))) == [(100, 150)], "it has begun"


def test_what_begins_with_the_partition_reaches_back_for_ever() -> None:
    assert holes(counted((0, 0, 9, 150, 200))) == []


@pytest.mark.parametrize("late", [0, 40])
def test_a_worker_that_goes_on_where_another_has_ended_leaves_no_hole(late: int) -> None:
    assert holes(counted((0, 7, 20, 90, 110)), counted((0, 20, 30, 110 + late, 200))) == []


def test_a_worker_that_does_not_know_how_far_another_had_come_leaves_a_hole() -> None:
    assert holes(counted((0, 7, 20, 90, 110)), counted((0, 15, 30, 110, 200))) == [], "both counted at 110"
    # Kafka had forgotten the offsets, or the topic was made again and has grown larger than the old one.
    for since in (0, 15):
        assert holes(counted((0, 7, 20, 90, 110)), counted((0, since, 30, 150, 200))) == [(110, 150)]


def test_what_lies_between_two_workers_is_a_hole() -> None:
    assert holes(counted((0, 7, 20, 90, 110)), counted((0, 21, 30, 150, 200))) == [(110, 150)]
    # A clock that is behind hides when, and not that.
    assert holes(counted((0, 7, 20, 90, 110)), counted((0, 21, 30, 105, 200))) == [(110, 111)]


def test_a_time_is_counted_if_it_is_for_every_partition() -> None:
    assert holes(counted((0, 7, 9, 90, 200), partitions=2)) == [(100, 200)]
    one = counted((0, 7, 9, 90, 160), partitions=2)
    two = counted((1, 5, 9, 120, 200), partitions=2)
    assert holes(one, two) == [(100, 120), (160, 200)]
    grown = counted((0, 7, 9, 90, 200), (1, 0, 3, 170, 200), partitions=2)
    assert holes(grown) == [], "a partition that came later had nothing before"


def test_a_later_record_of_a_segment_replaces_the_earlier_one() -> None:
    time = CountedTime()
    early = counted((0, 7, 9, 90, 110))
    time.take(early)
    time.take(Coverage(cluster="c1", segment=early.segment, partitions=1,
                                  spans=(CountedSpan(0, 7, 15, 90, 200),)))  # fmt: skip
    assert time.holes("c1", 100, 200) == []


def test_a_raw_topic_that_was_made_again_begins_anew() -> None:
    old, new = counted((0, 700, 900, 90, 120)), counted((0, 0, 50, 150, 180))
    assert holes(old, new, counted((0, 50, 60, 180, 200))) == [(120, 150)]


def test_other_clusters_say_nothing_and_workers_of_all_clusters_do() -> None:
    assert holes(counted((0, 7, 9, 90, 200), cluster="c2")) == [(100, 200)]
    assert holes(counted((0, 7, 9, 90, 200), cluster=ALL_CLUSTERS)) == []
    # Groups of their own number their offsets alike, and know nothing of one another.
    assert holes(counted((0, 7, 20, 90, 110)), counted((0, 20, 30, 150, 200), cluster=ALL_CLUSTERS)) == [(110, 150)]


def test_of_all_clusters_a_time_is_counted_if_it_is_for_each() -> None:
    one, two = counted((0, 7, 9, 90, 200), cluster="c1"), counted((0, 7, 9, 150, 200), cluster="c2")
    assert holes(one, two, cluster="") == [(100, 150)]
    everybody = counted((0, 7, 9, 90, 180), cluster=ALL_CLUSTERS)
    assert holes(one, two, everybody, cluster="") == []


def test_verdicts_that_came_too_late_are_told_if_they_may_be_of_the_window() -> None:
    time = CountedTime()
    for segment, since, until in (("a", 50, 120), ("b", 190, 300), ("c", 10, 20)):
        time.take(Coverage(cluster="c1", segment=segment, partitions=1, spans=(), missed=2, missed_since=since,
                           missed_until=until))  # fmt: skip
    assert time.missed("c1", 100, 200) == Missed(4, 50, 300)
    assert time.missed("c1", 400, 500) is None
    assert time.missed("c2", 100, 200) is None
