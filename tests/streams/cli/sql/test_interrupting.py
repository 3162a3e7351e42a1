"""Ctrl-C ends a query whose single task would last for hours."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from streams.cli.sql.database import Database
from streams.cli.sql.interrupting import interrupting


def test_a_signal_is_told_by_a_thread() -> None:
    told: list[str] = []
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with pytest.raises(KeyboardInterrupt), interrupting(lambda: told.append(threading.current_thread().name)):
        signal.raise_signal(signal.SIGINT)
    assert told == ["interrupt"]
    assert signal.set_wakeup_fd(before) == before
    assert "interrupt" not in {one.name for one in threading.enumerate()}


def test_a_query_that_is_told_to_end_does(tmp_path: Path) -> None:
    database = Database({}, "500MB", tmp_path, "1GB")
    query = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 1"
    timer = threading.Timer(1, database.interrupt)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(database.answer(query).rows)
    finally:
        timer.cancel()
        database.close()
