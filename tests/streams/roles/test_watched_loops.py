"""The loops of the roles whose threads may hang in a call of Kafka's client are watched."""

from __future__ import annotations

import threading
from unittest.mock import MagicMock

import pytest

from streams.kafka.lag import LagMonitor
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


def test_the_loop_of_the_journal_is_watched() -> None:
    monitor = LagMonitor({}, 30.0, MagicMock())
    settings = Settings(kafka="127.0.0.1:1")
    thread = journal._thread(settings, MagicMock(), MagicMock(), monitor)
    (watched,) = monitor._watched
    assert watched.depends_on(settings.group("journal"))
    thread.turns = 7
    assert watched.turns() == 7
