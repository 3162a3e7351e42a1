"""The loop of a sink, with a fake reader and a fake destination. tests/kafka tests it with a real Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry

from streams.kafka.dead_letters import NoDeadLettersError
from streams.kafka.followed import Followed
from streams.kafka.group import GroupReader
from streams.kafka.lag import LagMonitor
from streams.kafka.records import Record
from streams.metrics.progress import ProgressMetrics
from streams.metrics.roles import SinkMetrics
from streams.sinks import pump as pumping
from streams.sinks.feed import Feed
from streams.sinks.pump import Pump
from streams.sinks.sink import PartlyRefusedError, RefusedError, SinkError, write_in_requests

T = TypeVar("T")


class Topic:
    """Returns ten records per call until there are none; then it stops the loop."""

    problem: str | None = None
    is_writing = False

    def __init__(self, values: Sequence[bytes], stop: threading.Event) -> None:
        self.records = [Record(0, offset, b"", value, 0) for offset, value in enumerate(values)]
        self.committed, self._read, self._stop = 0, 0, stop
        self.failures, self.patience = 0, 1000
        self.left: list[tuple[int, str]] = []

    def take(self, most: int, wait_s: float) -> list[Record]:
        taken = self.records[self._read : self._read + 10]
        self._read += len(taken)
        if not taken:
            self._stop.set()
        return taken

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        return stop.wait(seconds)

    def during(self, work: Callable[[], T]) -> T:
        return work()

    def fail(self) -> bool:
        self.failures += 1
        return self.failures >= self.patience

    def succeed(self) -> None:
        self.failures = 0

    def leave(self, why: str) -> None:
        self.left.append((self.committed, why))

    def commit(self, records: Sequence[Record]) -> None:
        self.committed = records[-1].offset + 1

    def lag(self) -> int:
        return len(self.records) - self.committed

    def close(self) -> None:
        pass


class FarEnd:
    def __init__(self, answer: Callable[[Sequence[bytes]], Exception | None]) -> None:
        self.has: list[bytes] = []
        self._answer = answer

    def write(self, values: Sequence[bytes]) -> None:
        error = self._answer(values)
        if error:
            raise error
        self.has += values

    def close(self) -> None:
        pass


def run(
    far: FarEnd, values: Sequence[bytes], takes: Callable[[bytes], bool] = lambda _: True
) -> tuple[Topic, list[tuple[bytes, str]], SinkMetrics]:
    stop, dead = threading.Event(), []

    def send_dead_letter(record: Record, reason: str, error: str) -> bool:
        dead.append((record.value, reason))
        return True

    topic, metrics = Topic(values, stop), SinkMetrics(CollectorRegistry())
    Pump(Feed("f", takes), far, topic, send_dead_letter, metrics, stop).run()
    return topic, dead, metrics


VALUES = [b"%d" % number for number in range(25)]


def test_a_refused_record_is_isolated_and_sent_to_the_dead_letter_topic() -> None:
    bad = {b"3", b"4", b"24"}
    far = FarEnd(lambda values: RefusedError("no") if bad & set(values) else None)
    topic, dead, metrics = run(far, VALUES)
    assert far.has == [value for value in VALUES if value not in bad]
    assert dead == [(b"3", "sink_refused"), (b"4", "sink_refused"), (b"24", "sink_refused")]
    assert topic.committed == 25
    assert metrics.refused.labels("f")._value.get() == 3
    assert metrics.lag.labels("f")._value.get() == 0


def test_a_destination_that_was_away_gets_all_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumping, "_FIRST_BACKOFF_S", 0.01)
    tries = iter(range(100))
    far = FarEnd(lambda values: SinkError("away") if values and next(tries) % 3 else None)
    topic, dead, metrics = run(far, VALUES)
    assert (far.has, dead, topic.committed) == (VALUES, [], 25)
    assert metrics.failures.labels("f")._value.get() == 4


def test_a_stop_while_the_destination_is_away_commits_nothing() -> None:
    stop = threading.Event()

    def away(_: Sequence[bytes]) -> Exception:
        stop.set()
        return SinkError("away")

    topic = Topic(VALUES, stop)
    Pump(Feed("f", lambda _: True), FarEnd(away), topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop).run()
    assert topic.committed == 0


def test_unwanted_records_are_committed_and_invalid_ones_are_dead_letters() -> None:
    def takes(value: bytes) -> bool:
        return int(value) % 2 == 0

    far = FarEnd(lambda _: None)
    topic, dead, _ = run(far, [*VALUES[:5], b"junk", *VALUES[5:]], takes)
    assert far.has == VALUES[::2]
    assert dead == [(b"junk", "no_record")]
    assert topic.committed == 26


class Requests(FarEnd):
    """A destination that takes a few records with each request."""

    def __init__(self, limit: int, answer: Callable[[Sequence[bytes]], Exception | None]) -> None:
        super().__init__(answer)
        self._limit = limit

    def write(self, values: Sequence[bytes]) -> None:
        write_in_requests(values, self._limit, super().write)


def test_records_of_an_earlier_request_are_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumping, "_FIRST_BACKOFF_S", 0.01)
    tries = iter(range(100))

    def answer(values: Sequence[bytes]) -> Exception | None:
        if b"7" in values and next(tries) == 0:
            return SinkError("away")
        return RefusedError("no") if b"13" in values else None

    far = Requests(4, answer)
    topic, dead, metrics = run(far, VALUES)
    assert far.has == [value for value in VALUES if value != b"13"]
    assert (dead, topic.committed) == ([(b"13", "sink_refused")], 25)
    assert metrics.records.labels("f")._value.get() == 24


def test_records_that_are_partly_rejected_are_never_written_again_and_are_counted() -> None:
    far = Requests(4, lambda _: None)
    written: list[bytes] = []

    def rejects_odd_ones(values: Sequence[bytes]) -> None:
        written.extend(values)
        rejected = sum(int(value) % 2 for value in values)
        if rejected:
            raise PartlyRefusedError("too old", rejected, tried=len(values))

    far.write = lambda values: write_in_requests(values, 4, rejects_odd_ones)  # type: ignore[method-assign]
    topic, dead, metrics = run(far, VALUES)
    assert (written, dead, topic.committed) == (VALUES, [], 25)
    assert metrics.refused.labels("f")._value.get() == 12
    assert metrics.records.labels("f")._value.get() == 13


def test_records_that_are_all_rejected_are_dead_letters() -> None:
    far = FarEnd(lambda values: PartlyRefusedError("no", len(values), tried=len(values)) if values else None)
    topic, dead, _ = run(far, VALUES[:3])
    assert (dead, topic.committed) == ([(value, "sink_refused") for value in VALUES[:3]], 3)


def test_a_stop_commits_what_an_earlier_request_has_stored() -> None:
    stop = threading.Event()

    def answer(values: Sequence[bytes]) -> Exception | None:
        if b"6" not in values:
            return None
        stop.set()
        return SinkError("away")

    topic = Topic(VALUES, stop)
    far = Requests(2, answer)
    Pump(Feed("f", lambda _: True), far, topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop).run()
    assert (far.has, topic.committed) == (VALUES[:6], 6)


def test_a_stop_while_a_dead_letter_is_sent_leaves_the_record_for_the_next_start() -> None:
    stop = threading.Event()

    def stopped(*_: object) -> bool:
        stop.set()
        return False

    topic = Topic(VALUES, stop)
    far = FarEnd(lambda values: RefusedError("no") if b"3" in values else None)
    Pump(Feed("f", lambda _: True), far, topic, stopped, SinkMetrics(CollectorRegistry()), stop).run()
    assert topic.committed == 3


def test_a_slow_write_is_a_problem_and_no_stall_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    topic = Topic(VALUES, stop)
    seen: list[tuple[bool, str | None]] = []

    def answer(values: Sequence[bytes]) -> None:
        if values:
            monkeypatch.setattr(pumping, "_SLOW_WRITE_S", -1.0)
            seen.append((topic.is_writing, pump.problem()))

    pump = Pump(
        Feed("f", lambda _: True), FarEnd(answer), topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop
    )
    pump.run()
    assert set(seen) == {(True, "a write has taken 0 s so far")}
    assert (topic.is_writing, pump.problem()) == (False, None)


def test_a_reader_says_that_it_waits_while_its_destination_is_written() -> None:
    class Monitor(LagMonitor):
        followed: Followed

        def follow(self, followed: Followed) -> None:
            self.followed = followed

    connection = {"bootstrap.servers": "127.0.0.1:1"}
    monitor = Monitor(connection, 30, ProgressMetrics(CollectorRegistry()))
    reader = GroupReader(connection, "g", "t", monitor=monitor)
    waits = monitor.followed.waits
    assert waits() == waits()
    reader.is_writing = True
    assert waits() != waits()
    reader.close()


def test_the_destination_is_left_alone_for_as_long_as_it_asks() -> None:
    waits: list[float] = []
    stop = threading.Event()
    topic = Topic(VALUES, stop)

    def wait(seconds: float, stop: threading.Event) -> bool:
        waits.append(seconds)
        return stop.is_set()

    topic.wait = wait  # type: ignore[method-assign]
    tries = iter(
        [
            SinkError("busy", retry_after_s=30),
            SinkError("busy"),
            SinkError("busy", retry_after_s=0.1),
            SinkError("busy", retry_after_s=1e9),
        ]
    )
    far = FarEnd(lambda _: next(tries, None))
    Pump(Feed("f", lambda _: True), far, topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop).run()
    assert (waits, topic.committed) == ([30, 1.0, 2.0, 300], 25)


def test_what_is_stored_is_committed_before_the_rest_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumping, "_FIRST_BACKOFF_S", 0.01)
    stop = threading.Event()
    topic = Topic(VALUES[:10], stop)
    topic.patience = 3
    far = Requests(2, lambda values: SinkError("away") if b"6" in values else None)
    Pump(Feed("f", lambda _: True), far, topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop).run()
    assert (far.has, topic.left) == (VALUES[:6], [(6, "away")])


def test_a_refused_record_is_work_that_no_other_member_would_do_better() -> None:
    stop = threading.Event()
    topic = Topic(VALUES[:10], stop)
    topic.failures = 1
    far = FarEnd(lambda _: RefusedError("no"))
    Pump(Feed("f", lambda _: True), far, topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop).run()
    assert (topic.failures, topic.committed) == (0, 10)


def test_a_destination_that_asks_to_be_left_alone_is_not_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumping, "_FIRST_BACKOFF_S", 0.01)
    tries = iter([SinkError("busy", retry_after_s=0.01)] * 5)
    stop = threading.Event()
    topic = Topic(VALUES, stop)
    topic.patience = 1
    far = FarEnd(lambda _: next(tries, None))
    Pump(Feed("f", lambda _: True), far, topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop).run()
    assert (topic.left, topic.committed) == ([], 25)


@pytest.mark.parametrize("patience", [2, 1000])
def test_a_dead_letter_that_may_not_be_written_is_tried_again_or_left_to_others(
    monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    monkeypatch.setattr(pumping, "_FIRST_BACKOFF_S", 0.01)
    stop, tries = threading.Event(), iter(range(100))

    def send_dead_letter(*_: object) -> bool:
        if next(tries) < 3:
            assert pump.problem() == (None if topic.failures == 0 else "no right WRITE")
            raise NoDeadLettersError("no right WRITE")
        return True

    topic = Topic(VALUES[:5], stop)
    topic.patience = patience
    far = FarEnd(lambda values: RefusedError("no") if b"3" in values else None)
    pump = Pump(Feed("f", lambda _: True), far, topic, send_dead_letter, SinkMetrics(CollectorRegistry()), stop)
    pump.run()
    if patience == 2:
        assert (topic.committed, topic.left) == (3, [(3, "no right WRITE")])
    else:
        assert (far.has, topic.committed, topic.left) == ([b"0", b"1", b"2", b"4"], 5, [])


def test_nothing_is_committed_of_a_first_write_that_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without records, too: a commit would say that a new group has begun, and the next member would begin later."""
    monkeypatch.setattr(pumping, "_FIRST_BACKOFF_S", 0.01)

    class Empty(Topic):
        def take(self, most: int, wait_s: float) -> list[Record]:
            return []

        def leave(self, why: str) -> None:
            super().leave(why)
            self._stop.set()

        def commit(self, records: Sequence[Record]) -> None:
            commits.append(records)

    commits: list[Sequence[Record]] = []
    stop = threading.Event()
    topic = Empty([], stop)
    topic.patience = 2
    far = FarEnd(lambda _: SinkError("away"))
    Pump(Feed("f", lambda _: True), far, topic, lambda *_: True, SinkMetrics(CollectorRegistry()), stop).run()
    assert (commits, topic.left) == ([], [(0, "away")])
