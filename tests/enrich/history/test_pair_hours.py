"""Pairs put together hour by hour, against a plain sum of everything, and in bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from enrich.history.pair_hours import HOUR_MS, LATE_MS, PairHours, TooManyPairsError
from enrich.wire.pair import Pair, PairEnd, PairKey
from enrich.wire.pair_coverage import CountedSpan, Coverage, decode_coverage, encode_coverage
from enrich.wire.pair_place import counts_key, coverage_key, names_key
from enrich.wire.pair_records import CountsHeader, Names, encode_counts, encode_names

HOUR = 494_971
Rows = dict[int, tuple[int, int, int, int]]
"""Verdicts, packets, first and last second by the place in the chunk."""
Record = tuple[bytes, bytes, int]


def key_to(number: int) -> PairKey:
    web = PairEnd(profile="0123456789abcdef", namespace="shop", workload="Deployment/web")
    peer = PairEnd(block=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32")
    return PairKey(subject=web, peer=peer, direction="egress", protocol=6, port=443, verdict="allow", reason="policy")


def names(segment: str, keys: list[PairKey], at: float, cluster: str = "c1", chunk: int = 0) -> Record:
    pairs = [(key, (f"{segment}-{place}",)) for place, key in enumerate(keys)]
    made = Names(cluster=cluster, segment=segment, chunk=chunk, pairs=pairs)
    return names_key(cluster, segment, chunk), encode_names(made), int(at * HOUR_MS)


def counts(segment: str, hour: int, rows: Rows, at: float, cluster: str = "c1", chunk: int = 0) -> Record:
    header = CountsHeader(cluster=cluster, segment=segment, chunk=chunk, hour=hour, pairs=len(rows))
    found = [np.array(column, "u8") for column in zip(*rows.values(), strict=True)] if rows else [np.zeros(0)] * 4
    columns = dict(zip(("verdicts", "packets", "first", "last"), found, strict=True), place=np.array(list(rows)))
    return counts_key(cluster, segment, hour, chunk), encode_counts(header, columns), int(at * HOUR_MS)


def read(hours: PairHours, records: list[Record]) -> Iterator[Pair]:
    for key, value, at_ms in records:
        yield from hours.take(key, value, at_ms)
    yield from hours.rest()


def sums(pairs: list[Pair]) -> dict[tuple[int, str, PairKey], tuple[int, ...]]:
    found: dict[tuple[int, str, PairKey], tuple[int, ...]] = {
        (p.hour, p.cluster, p.key): (p.verdicts, p.packets, p.first_ns, p.last_ns) for p in pairs
    }
    assert len(found) == len(pairs), "a combination comes once in an hour"
    return found


@pytest.mark.parametrize("seed", range(20))
def test_hours_have_what_a_sum_of_all_records_has(seed: int) -> None:
    """Random segments that number common combinations anew, and write their counts again and again."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    records: list[Record] = []
    last: dict[tuple[str, str, int], tuple[list[PairKey], Rows]] = {}
    for segment in map(str, range(8)):
        begin, cluster = HOUR + chance.uniform(0, 60), chance.choice(("c1", "c2"))
        keys = [key_to(number) for number in chance.sample(range(40), 12)]
        records += (names(segment, keys[: 4 * part], begin + 0.1 * part, cluster) for part in (1, 2, 3))
        for hour in range(int(begin) - 3, int(begin) + 20):
            for again in range(chance.randrange(3)):
                rows = {place: (chance.randrange(1, 9), 2, chance.randrange(60), 60 + chance.randrange(60)) for place in
                        sorted(chance.sample(range(12), 5))}  # fmt: skip
                records.append(counts(segment, hour, rows, max(hour, begin) + 0.3 + again, cluster))
                last[cluster, segment, hour] = keys, rows
    plain: dict[tuple[int, str, PairKey], tuple[int, ...]] = {}
    for (cluster, _, hour), (keys, rows) in last.items():
        for place, (verdicts, packets, first, end) in rows.items():
            begin_ns = hour * 3600 * 10**9
            one = (verdicts, packets, begin_ns + first * 10**9, begin_ns + end * 10**9)
            old = plain.get((hour, cluster, keys[place]), (0, 0, one[2], one[3]))
            plain[hour, cluster, keys[place]] = (
                old[0] + one[0], old[1] + one[1], min(old[2], one[2]), max(old[3], one[3])
            )  # fmt: skip
    hours = PairHours(HOUR - 5, HOUR + 100, max_decoded=20 if seed % 2 else 10**6)

    found = list(read(hours, sorted(records, key=lambda record: record[2])))

    assert [pair.hour for pair in found] == sorted(pair.hour for pair in found)
    if seed % 2 == 0:
        assert sums(found) == plain
    total = sum(pair.verdicts for pair in found), sum(pair.packets for pair in found)
    assert total == (sum(one[0] for one in plain.values()), sum(one[1] for one in plain.values()))
    assert (hours.late, hours.unreadable, hours.nameless) == (0, 0, set())
    assert all(1 <= len(pair.examples) <= 3 for pair in found)


def week(hours: int, combinations: int) -> Iterator[Record]:
    """A worker with a new segment each day."""
    keys = [key_to(number) for number in range(combinations)]
    rows = dict.fromkeys(range(combinations), (1, 1, 0, 0))
    for hour in range(hours):
        segment = f"day{hour // 24}"
        if hour % 24 == 0:
            yield names(segment, keys, HOUR + hour + 0.01)
        yield counts(segment, HOUR + hour, rows, HOUR + hour + 0.9)


def test_memory_does_not_grow_with_the_window() -> None:
    most = {}
    for length in (72, 360):
        reading, found, most[length] = PairHours(HOUR, HOUR + length), 0, 0
        for record in week(length, 100):
            found += sum(1 for _ in reading.take(*record))
            most[length] = max(most[length], reading.bytes)
        found += sum(1 for _ in reading.rest())
        assert found == 100 * length
    assert 0 < most[360] < 1.1 * most[72]


def test_pairs_that_do_not_fit_end_the_reading_instead_of_the_process() -> None:
    reading = PairHours(HOUR, HOUR + 10, max_bytes=3_000)

    with pytest.raises(TooManyPairsError, match=r"from 2026-06-19T19:00:00Z on take more than 0 MiB"):
        list(read(reading, [counts(str(number), HOUR, {0: (1, 1, 0, 0)}, HOUR + 1) for number in range(10)]))


def test_records_that_are_written_again_take_no_more_memory() -> None:
    reading, sizes = PairHours(HOUR, HOUR + 10), []
    for _ in range(3):
        for record in (names("a", [key_to(1)], HOUR), counts("a", HOUR, {0: (1, 1, 0, 0)}, HOUR)):
            assert list(reading.take(*record)) == []
        sizes.append(reading.bytes)

    assert sizes == [sizes[0]] * 3


def test_a_record_of_coverage_that_grows_takes_the_memory_that_it_has_now() -> None:
    def coverage(spans: int) -> Record:
        found = tuple(CountedSpan(number, 5, 9, 100, 200) for number in range(spans))
        made = Coverage(cluster="c1", segment="a", partitions=2_000, spans=found)
        return coverage_key("c1", "a"), encode_coverage(made), HOUR * HOUR_MS

    reading, records = PairHours(HOUR, HOUR + 3), [coverage(spans) for spans in (1, 2_000, 2_000)]
    sizes = [reading.bytes for record in records if not list(reading.take(*record))]
    assert sizes[0] < sizes[1] == sizes[2]
    tracemalloc.start()
    try:
        kept = decode_coverage(records[1][1])
        assert kept.spans
        assert 0.8 * tracemalloc.get_traced_memory()[0] < sizes[1] < 3 * tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_counts_that_come_after_their_hour_is_given_away_are_told() -> None:
    late = counts("b", HOUR, {0: (5, 5, 0, 0)}, HOUR + 1 + LATE_MS / HOUR_MS)
    reading = PairHours(HOUR, HOUR + 3)

    found = list(read(reading, [names("b", [key_to(1)], HOUR), counts("b", HOUR, {0: (4, 4, 0, 0)}, HOUR), late]))

    assert [pair.verdicts for pair in found] == [4]
    assert reading.late == 1


def test_counts_without_all_of_their_names_are_told_by_their_hour() -> None:
    rows = {0: (1, 1, 0, 0), 1: (2, 2, 0, 0)}
    reading = PairHours(HOUR, HOUR + 3)

    found = list(
        read(
            reading,
            [names("a", [key_to(1)], HOUR), counts("a", HOUR, rows, HOUR), counts("b", HOUR + 2, rows, HOUR + 2)],
        )
    )

    assert [pair.verdicts for pair in found] == [1]
    assert reading.nameless == {HOUR, HOUR + 2}


def test_a_cluster_whose_id_looks_like_a_key_is_read() -> None:
    cluster = "arn:aws:eks:eu-west-1:1234:cluster/names/7"
    reading = PairHours(HOUR, HOUR + 1, cluster)

    found = list(
        read(reading, [names("a", [key_to(1)], HOUR, cluster), counts("a", HOUR, {0: (3, 3, 0, 0)}, HOUR, cluster)])
    )

    assert [(pair.cluster, pair.verdicts) for pair in found] == [(cluster, 3)]


def test_a_record_under_the_key_of_another_one_is_skipped() -> None:
    _, value, at = counts("b", HOUR, {0: (3, 3, 0, 0)}, HOUR)
    reading = PairHours(HOUR, HOUR + 1)

    found = list(read(reading, [names("a", [key_to(1)], HOUR), (counts_key("c1", "a", HOUR, 0), value, at)]))

    assert found == []
    assert reading.unreadable == 1


def test_sums_of_what_no_worker_counts_stay_valid() -> None:
    huge = {0: ((1 << 63) - 1, (1 << 63) - 1, 0, 0)}
    records = [
        record for segment in "abc" for record in (names(segment, [key_to(1)], HOUR), counts(segment, HOUR, huge, HOUR))
    ]

    (pair,) = read(PairHours(HOUR, HOUR + 1), sorted(records, key=lambda record: record[2]))

    assert msgspec.convert(msgspec.to_builtins(pair), Pair) == pair
