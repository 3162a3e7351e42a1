"""A record is found by its id: quickly where numbers rise with time, and surely where they do not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import pytest

from streams.kafka import ranges
from streams.kafka.records import Record, Run
from streams.observing import record_search
from streams.observing.record_search import RecordSearch, Span
from tests.streams.observing.test_observe import make_value

_DAY_MS = 86_400_000
_COUNT = 40_000
_NAMES = ("a", "b", "quiet")


class Day:
    """A topic of four partitions, with the records of a day of two busy rings and a quiet one."""

    partitions = range(4)

    def __init__(self, late: Collection[int] = (), ahead: Collection[int] = ()) -> None:
        """``late``: numbers of ring a that came an hour after the others like them. ``ahead``: numbers whose records
        stand where they belong, and have a time of the next day on Kafka."""
        self.taken = 0
        self._logs: list[list[tuple[int, bytes]]] = [[] for _ in self.partitions]
        found = []
        for number in range(_COUNT):
            at = _DAY_MS * number // _COUNT + (3_600_000 if number in late else 0)
            found.append((at, f"{_NAMES[2 if number % 9_000 == 4_000 else number % 2]}-{number}"))
        for place, (at, name) in enumerate(sorted(found)):
            is_ahead = int(name.partition("-")[2]) in ahead
            self._logs[place * 7 % 4].append((at + _DAY_MS * is_ahead, name.encode()))
        self._queue: Iterator[Run] = iter(())
        self._skipped: set[int] = set()

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {one: (0, len(log)) for one, log in enumerate(self._logs)}

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        return {
            one: next((place for place, (at, _) in enumerate(log) if at >= timestamp_ms), len(log))
            for one, log in enumerate(self._logs)
        }

    def start(self, offsets: Mapping[int, int]) -> None:
        self._skipped = set()
        self._queue = self._runs(offsets)

    def _runs(self, offsets: Mapping[int, int]) -> Iterator[Run]:
        left = dict(offsets)
        while left:
            for one, offset in list(left.items()):
                part = self._logs[one][offset : offset + 50]
                if not part or one in self._skipped:
                    del left[one]
                    continue
                left[one] += len(part)
                values = [make_value(id=name.decode()) for _, name in part]
                yield Run(one, list(range(offset, offset + len(part))), [at for at, _ in part], values)

    def take_runs(self, _most: int, _wait_s: float) -> list[Run]:
        found = next(self._queue, None)
        self.taken += len(found.values) if found else 0
        return [found] if found else []

    def take(self, _most: int, _wait_s: float) -> list[Record]:
        raise NotImplementedError

    def skip(self, partitions: Collection[int]) -> None:
        self._skipped |= set(partitions)

    def ended(self) -> frozenset[int]:
        return frozenset()


def search(day: Day, record_id: str, since: int = 0, until: int = _DAY_MS, *, is_past: bool = False) -> RecordSearch:
    return RecordSearch(day, "flows", record_id, Span(since, until, is_past), lambda _text: None)


@pytest.mark.parametrize("record_id", ["b-1", "a-2", "b-4001", "a-20000", "b-39999"])
def test_a_record_is_found_by_its_number(record_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_search, "_SAMPLE", 20)
    day = Day()
    found = search(day, record_id).near()
    assert found is not None
    assert found.flow.id == record_id
    assert day.taken < _COUNT // 10


def test_a_record_of_a_quiet_ring_or_of_another_time_is_found_by_reading_everything() -> None:
    day = Day()
    sought = search(day, "quiet-13000")
    assert sought.near() is None
    found = sought.rest()
    assert found is not None
    assert found.flow.id == "quiet-13000"
    # The numbers around it say 18:00, and it came an hour later.
    day = Day(late=(30_000,))
    sought = search(day, "a-30000")
    assert sought.near() is None
    assert day.taken < _COUNT // 4
    found = sought.rest()
    assert found is not None
    assert day.taken < _COUNT, "the newest are read first"


@pytest.mark.parametrize("record_id", ["a-50000", "c-1", "a-3", "quiet-13001"])
def test_a_record_that_is_not_there_is_not_found(record_id: str) -> None:
    sought = search(Day(), record_id)
    assert sought.near() is None
    assert sought.rest() is None


def test_only_the_time_in_question_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_LATER_RECORDS", 100)
    noon = _DAY_MS // 2
    for record_id, is_there in (("a-10000", False), ("a-20100", True), ("a-38000", False)):
        day = Day()
        sought = search(day, record_id, noon, noon + 600_000, is_past=True)
        assert ((sought.near() or sought.rest()) is not None) == is_there
        assert day.taken < _COUNT // 8


@pytest.mark.parametrize("forged", [(20_096, 20_097, 20_098, 20_099), (15_000, 15_001, 15_002, 15_003)])
def test_later_records_do_not_hide_those_behind_them(forged: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_LATER_RECORDS", 100)
    noon = _DAY_MS // 2
    day = Day(ahead=forged)  # one in each partition
    sought = search(day, "a-20100", noon, noon + 600_000, is_past=True)
    found = sought.near() or sought.rest()
    assert found is not None
    assert found.flow.id == "a-20100"
    assert day.taken < _COUNT // 4, "what stays later is not read"


def test_a_record_that_is_later_itself_is_found_in_a_time_of_the_past() -> None:
    noon = _DAY_MS // 2
    sought = search(Day(ahead=(20_100,)), "a-20100", noon, noon + 600_000, is_past=True)
    found = sought.near() or sought.rest()
    assert found is not None
    assert found.flow.id == "a-20100"
