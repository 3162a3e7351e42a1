"""What the reading of pairs says of records that Kafka cannot give, and of windows without an end (no Kafka here)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from enrich.wire.topics import topics
from streams.cli import pairs_reading
from streams.cli.pairs_reading import PairsReading, read_pairs
from streams.kafka.records import Record

HOUR = int(time.time()) // 3600


class Reader:
    """A topic with a few records in its one partition."""

    def __init__(self, *_: Any) -> None:
        pass

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {0: (0, 9)}

    def at_time(self, _timestamp_ms: int) -> dict[int, int]:
        return {0: 5}

    def close(self) -> None:
        pass


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    found: list[Record] = []

    def read(*_: Any) -> Iterator[Record]:
        yield from found

    monkeypatch.setattr(pairs_reading, "TopicReader", Reader)
    monkeypatch.setattr(pairs_reading, "read_committed", read)
    return found


def reading(until_hour: int = HOUR + 1) -> PairsReading:
    return read_pairs({}, topics("test", 1), HOUR - 2, until_hour)


def test_a_batch_that_cannot_be_read_is_no_deletion(records: list[Record]) -> None:
    deletion = Record(0, 5, b"c1/a/names/0", b"", HOUR * 3_600_000)
    records.append(deletion)
    found = reading()
    assert list(found) == []
    assert (found.unreadable, found.has_losses) == (0, False)

    records.append(Record(0, 6, b"", b"", 0, unread="a batch inflates to more than 64 MiB"))
    found = reading()
    assert list(found) == []
    assert (found.unreadable, found.has_losses) == (1, True)


@pytest.mark.usefixtures("records")
def test_an_end_in_a_distant_future_costs_no_time() -> None:
    began = time.process_time()
    assert list(reading(HOUR + 70_000_000)) == []
    assert time.process_time() - began < 5
