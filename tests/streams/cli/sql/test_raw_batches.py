"""What a person is told of verdicts that Kafka no longer keeps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from streams.cli.advice_window import CannotSayError
from streams.cli.sql import raw_batches
from streams.cli.sql.raw_batches import RawBatches
from tests.streams.observing.test_observe import FakeTopic


class Kept(FakeTopic):
    """A topic of partitions of which retention has removed the first records, or all."""

    def __init__(self, kept: Mapping[int, tuple[int, int]]) -> None:
        super().__init__({partition: end for partition, (_, end) in kept.items()})
        self.kept = dict(kept)

    def bounds(self) -> dict[int, tuple[int, int]]:
        return self.kept

    def at_time(self, _timestamp_ms: int) -> dict[int, int]:
        return {partition: first for partition, (first, _) in self.kept.items()}

    def close(self) -> None:
        """Close nothing."""


def opened(kept: Mapping[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> RawBatches:
    monkeypatch.setattr(raw_batches, "TopicReader", lambda *_, **__: Kept(kept))
    return RawBatches({}, "raw", 1_000, None, 0, "")


def test_a_topic_that_retention_has_emptied_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotSayError, match="raw is empty: the verdicts that it had are no longer kept"):
        opened({0: (5, 5), 1: (0, 0)}, monkeypatch)
    # Nothing was ever written to this one.
    assert opened({0: (0, 0)}, monkeypatch).notes() == []


def test_partitions_that_retention_has_emptied_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = opened({0: (5, 5), 1: (0, 3)}, monkeypatch)
    assert made.notes() == ["1 partitions of raw are empty: what they had is no longer kept"]
