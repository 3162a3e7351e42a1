"""Work on a disk that may hang, in a thread of its own."""

from __future__ import annotations

import threading
import time

import pytest

from enrich.runtime.in_time import Started


def fail() -> int:
    raise OSError(5, "Input/output error")


def test_what_work_returns_or_raises() -> None:
    assert Started("quick", lambda: 7).result(60) == 7
    with pytest.raises(OSError, match="Input/output error"):
        Started("failing", fail).result(60)


def test_time_counts_from_the_beginning_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    waits: list[float] = []
    started = Started("slow", answers.wait)
    later = time.monotonic() + 5
    with monkeypatch.context() as patch:
        patch.setattr("enrich.runtime.in_time.futures.wait", lambda _works, seconds: waits.append(seconds))
        patch.setattr("enrich.runtime.in_time.time.monotonic", lambda: later)
        with pytest.raises(TimeoutError, match="did not answer within 5 s"):
            started.result(5)
    assert waits == [0.0]
    assert not started.has_ended
    answers.set()
    assert started.result(60)
