"""The thread of a loop: how long it stays away after its transactions are aborted, and what it says when it ends."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError
from streams.metrics.roles import AlertMetrics
from streams.roles import loop_thread
from streams.roles.loop_thread import LoopThread
from tests.waiting import until


class Transactions:
    """A member of a group that gets partitions after some steps, whose first commit after that is aborted."""

    has_committed = False

    def __init__(self) -> None:
        self.problem: str | None = "Kafka has not been reached yet"
        self.steps = 0

    def start(self, _stop: threading.Event) -> bool:
        return True

    def lag(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def test_waiting_for_partitions_is_not_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread, "_PROVEN_S", 0.0)
    monkeypatch.setattr(loop_thread, "_FIRST_DELAY_S", 0.001)

    def step(transactions: Any) -> None:
        transactions.steps += 1
        if transactions.steps > 3:
            raise TransactionAbortedError("no right")

    made: Any = Transactions
    loop = LoopThread("count", lambda _: cast(ExactlyOnce, made()), step, AlertMetrics(CollectorRegistry()))
    loop.start()
    try:
        until(lambda: loop._delay_s >= 0.03)
        assert loop.problem() == "count: no right"
        turns = loop.turns
        until(lambda: loop._delay_s >= 0.1)
        assert loop.turns == turns, "nothing was done: to begin again and again is no work"
    finally:
        loop.stop()


@pytest.mark.parametrize(
    ("error", "text"),
    [(StopServiceError("no right", Exit.KAFKA), "no right"), (ValueError("x"), "journal, write: ValueError('x')")],
)
def test_a_loop_that_has_ended_says_why(error: Exception, text: str) -> None:
    def step(_transactions: Any) -> None:
        raise error

    made: Any = Transactions
    metrics = AlertMetrics(CollectorRegistry())
    loop = LoopThread("write", lambda _: cast(ExactlyOnce, made()), step, metrics, role="journal")
    loop.check()
    loop.start()
    until(lambda: loop.failed is not None)
    with pytest.raises(StopServiceError, match=f"^{re.escape(text)}$"):
        loop.check()


def test_a_certificate_that_is_half_written_is_no_reason_to_end(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----")
    connection = {
        "bootstrap.servers": "127.0.0.1:1", "security.protocol": "ssl", "ssl.ca.location": str(tmp_path / "ca.crt"),
    }  # fmt: skip
    loop = LoopThread(
        "count", lambda _: ExactlyOnce(connection, "g", ["t"], "w", lambda _: 0, lambda _: None), lambda _: None,
        AlertMetrics(CollectorRegistry()),
    )  # fmt: skip
    loop.start()
    try:
        until(lambda: "ssl.ca.location" in (loop.problem() or ""))
        assert loop.failed is None
    finally:
        loop.stop()


def test_a_loop_that_lost_its_partitions_is_more_patient_until_it_has_worked_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_thread, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(loop_thread, "_MAX_DELAY_S", 0.001)
    had: list[int] = []

    def make(patience: int) -> ExactlyOnce:
        had.append(patience)
        made: Any = Transactions()
        # The second and third attempts are aborted before they have partitions.
        made.problem = "Kafka has not been reached yet" if len(had) in {2, 3} else None
        return cast(ExactlyOnce, made)

    def step(transactions: Any) -> None:
        transactions.steps += 1
        if len(had) == 8:
            monkeypatch.setattr(loop_thread, "_CALM_S", 0.0)
        if transactions.steps > 3:
            raise TransactionAbortedError("fenced")

    loop = LoopThread("count", make, step, AlertMetrics(CollectorRegistry()))
    loop.start()
    try:
        until(lambda: len(had) >= 9)
        assert had[:9] == [1, 2, 2, 2, 4, 4, 4, 4, 1]
    finally:
        loop.stop()
