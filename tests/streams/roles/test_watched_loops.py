"""The loops of the roles whose threads may hang in a call of Kafka's client are watched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from unittest.mock import MagicMock

import pytest

from streams.kafka.connection import ReadError
from streams.kafka.exactly_once import TransactionAbortedError
from streams.kafka.lag import LagMonitor
from streams.kafka.records import Record
from streams.roles import alerts, journal
from streams.settings import Settings


def test_both_loops_of_the_alerts_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_partitions", lambda *_: 4)
    monitor = LagMonitor({}, 30.0, MagicMock())
    settings, rules = Settings(kafka="127.0.0.1:1"), alerts._Rules()
    *threads, _ = alerts._loop_threads(settings, rules, MagicMock(), MagicMock(), threading.Event(), monitor)
    for thread, watched, group in zip(threads, monitor._watched, ("alerts.count", "alerts.engine"), strict=True):
        assert watched.depends_on(settings.group(group))
        assert watched.turns() == 0
        thread.turns = 7
        assert watched.turns() == 7


def test_the_loop_of_the_journal_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = LagMonitor({}, 30.0, MagicMock())
    settings = Settings(kafka="127.0.0.1:1")
    writer = journal._writer(settings, MagicMock(), MagicMock(), MagicMock())
    thread = journal._thread(settings, writer, MagicMock(), monitor)
    (watched,) = monitor._watched
    assert watched.depends_on(settings.group("journal"))
    thread.turns = 7
    assert watched.turns() == 7

    def read(*_: object) -> Iterator[Record]:
        for number in range(3):
            assert watched.turns() == 7 + number, "a long reading is work"
            yield Record(0, number, b"", b"", 0)
        raise ReadError("too much")

    monkeypatch.setattr(journal, "newest_time_ms", lambda *_: 1)
    monkeypatch.setattr(journal, "read_committed", read)
    with pytest.raises(TransactionAbortedError, match="too much"):
        writer.on_assigned([("t", 0)])
    assert watched.turns() == 10, "a journal that is refused ends no role"


def test_what_the_engine_reads_when_it_begins_counts_as_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_partitions", lambda *_: 4)
    monkeypatch.setattr(alerts, "read_committed", lambda *_: iter([Record(0, 0, b"a", b"", 0)] * 3))
    monitor = LagMonitor({}, 30.0, MagicMock())
    settings, rules = Settings(kafka="127.0.0.1:1"), alerts._Rules()
    *_, engine = alerts._loop_threads(settings, rules, MagicMock(), MagicMock(), threading.Event(), monitor)
    engine.on_assigned([("t", 0)])
    assert [watched.turns() for watched in monitor._watched] == [0, 3]
