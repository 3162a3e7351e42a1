"""The feed hands records to every view, says when Kafka is away, and comes back."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import pytest

from streams.kafka.connection import ReadError
from streams.kafka.records import Record
from streams.observing.choice import Choice
from streams.observing.filters import Filters
from streams.web.feed import FlowFeed
from streams.web.viewers import Everybody
from streams.web.watcher import Watcher
from tests.streams.web.records import make_flow
from tests.waiting import until


class Topic:
    """A topic of one partition; ``away`` makes it fail."""

    def __init__(self) -> None:
        self.away, self.opened, self.started, self.closed = False, 0, 0, 0
        self.fails_at: str = ""
        self.values: list[bytes] = []
        self._lock = threading.Lock()

    def open(self) -> Topic:
        if self.away:
            raise ReadError("no broker")
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def add(self, value: bytes) -> None:
        with self._lock:
            self.values.append(value)

    def bounds(self) -> dict[int, tuple[int, int]]:
        if self.away or self.fails_at == "bounds":
            raise ReadError("no broker")
        return {0: (0, 10)}

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        return {0: 0}

    def start(self, offsets: Mapping[int, int]) -> None:
        self.started += 1
        assert offsets == {0: 10}

    def take(self, most: int, wait_s: float) -> list[Record]:
        threading.Event().wait(0.01)
        if self.fails_at == "take":
            raise RuntimeError("a mistake")
        with self._lock:
            taken, self.values = self.values, []
        return [Record(0, 0, b"", value, 0) for value in taken]

    def skip(self, partitions: Collection[int]) -> None: ...

    def ended(self) -> Collection[int]:
        return ()


class BusyTopic(Topic):
    """A topic that gets records faster than they are read; ``end`` is the offset of the next one."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.at, self.end = 0, end
        self.starts: list[int] = []

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {0: (0, self.end)}

    def start(self, offsets: Mapping[int, int]) -> None:
        self.at = offsets[0]
        self.starts.append(self.at)

    def take(self, most: int, wait_s: float) -> list[Record]:
        threading.Event().wait(0.01)
        if self.at >= self.end:
            return []
        self.at += 1
        return [Record(0, self.at - 1, b"", msgspec.json.encode(make_flow(self.at)), 0)]


class View:
    """A view, and what it was sent."""

    def __init__(self, feed: FlowFeed, takes: bool = True, **filters: Any) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.takes = takes
        self.watcher = Watcher(Choice(Filters(**filters)), Everybody(), self.put)
        feed.join(self.watcher, self.put)

    def put(self, message: bytes) -> bool:
        head, data, *_ = message.split(b"\n")
        self.sent.append((head.decode().removeprefix("event: "), msgspec.json.decode(data.removeprefix(b"data: "))))
        return self.takes

    def ids(self) -> list[str]:
        return [flow["id"] for name, data in self.sent if name == "flows" for flow in data["flows"]]

    def states(self) -> list[bool]:
        return [data["away_since"] is not None for name, data in self.sent if name == "kafka"]


def test_each_view_has_what_fits_it_and_rubbish_stops_nothing() -> None:
    topic = Topic()
    skipped: list[str] = []
    feed = FlowFeed(topic.open, lambda reason, _count: skipped.append(reason))
    feed.start()
    everything, denies = View(feed), View(feed, verdicts=["deny"])
    for value in (b"", b"rubbish", b'{"a":' * 9000, b"x" * 70_000, msgspec.json.encode(make_flow(1))):
        topic.add(value)
    topic.add(msgspec.json.encode(make_flow(2, disposition="deny")))
    until(lambda: sorted(everything.ids()) == ["r1-1", "r1-2"])
    assert sorted(skipped) == ["invalid"] * 3 + ["too_large"]
    until(lambda: denies.ids() == ["r1-2"])
    feed.leave(everything.watcher)
    topic.add(msgspec.json.encode(make_flow(3, disposition="deny")))
    until(lambda: denies.ids() == ["r1-2", "r1-3"])
    assert "r1-3" not in everything.ids()
    feed.stop()
    assert topic.closed == 1


def test_it_says_when_kafka_is_away_and_comes_back() -> None:
    topic = Topic()
    topic.away = True
    feed = FlowFeed(topic.open)
    feed.start()
    view = View(feed)
    until(lambda: view.states() == [False, True])
    assert "no broker" in (feed.problem() or "")
    late = View(feed)
    assert late.states() == [True]
    topic.away = False
    until(lambda: view.states() == [False, True, False])
    assert feed.problem() is None
    topic.add(msgspec.json.encode(make_flow(1)))
    until(lambda: view.ids() == ["r1-1"])
    feed.stop()


def test_a_view_that_takes_no_more_is_forgotten() -> None:
    topic = Topic()
    feed = FlowFeed(topic.open)
    feed.start()
    View(feed, takes=False)
    until(lambda: feed.count == 0)
    feed.stop()


def test_a_record_without_an_address_does_not_end_the_view_of_a_network() -> None:
    topic = Topic()
    skipped: list[str] = []
    feed = FlowFeed(topic.open, lambda reason, _count: skipped.append(reason))
    feed.start()
    view = View(feed, networks=["10.0.0.0/8"])
    hostile = make_flow(1)
    hostile = msgspec.structs.replace(hostile, connection=msgspec.structs.replace(hostile.connection, src_ip="x"))
    topic.add(msgspec.json.encode(hostile))
    topic.add(msgspec.json.encode(make_flow(2)))
    until(lambda: view.ids() == ["r1-2"])
    assert (skipped, view.states()) == (["invalid"], [False])
    feed.stop()


def test_a_mistake_is_said_and_does_not_end_the_feed() -> None:
    topic = Topic()
    topic.fails_at = "take"
    feed = FlowFeed(topic.open)
    feed.start()
    view = View(feed)
    until(lambda: True in view.states())
    topic.fails_at = ""
    topic.add(msgspec.json.encode(make_flow(1)))
    until(lambda: view.ids() == ["r1-1"])
    assert feed.problem() is None
    feed.stop()


def test_a_reader_that_could_not_begin_is_opened_again() -> None:
    topic = Topic()
    topic.fails_at = "bounds"
    feed = FlowFeed(topic.open)
    feed.start()
    view = View(feed)
    until(lambda: view.states() == [False, True])
    topic.fails_at = ""
    topic.add(msgspec.json.encode(make_flow(1)))
    until(lambda: view.ids() == ["r1-1"])
    assert topic.started == 1
    feed.stop()
    assert topic.opened == topic.closed


def test_a_mistake_in_sending_ends_no_view() -> None:
    topic = Topic()
    feed = FlowFeed(topic.open)
    view = View(feed)
    mistakes = iter([RuntimeError("a mistake")])
    put = view.put

    def put_or_fail(message: bytes) -> bool:
        if message.startswith(b"event: flows") and (mistake := next(mistakes, None)):
            raise mistake
        return put(message)

    view.watcher._put = put_or_fail
    feed.start()
    until(lambda: view.states() == [False, True, False])
    topic.add(msgspec.json.encode(make_flow(1)))
    until(lambda: view.ids() == ["r1-1"])
    feed.stop()


def test_while_nobody_looks_nothing_is_known_of_kafka() -> None:
    topic = Topic()
    topic.away = True
    feed = FlowFeed(topic.open)
    feed.start()
    view = View(feed)
    until(lambda: feed.problem() is not None)
    feed.leave(view.watcher)
    until(lambda: feed.problem() is None)
    feed.stop()


def test_who_comes_while_the_client_is_closed_is_told_that_kafka_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.web.feed._IDLE_S", 0.0)
    monkeypatch.setattr("streams.web.feed._QUIET_S", 0.0)
    late: list[View] = []

    class SlowTopic(Topic):
        def close(self) -> None:
            super().close()
            self.fails_at = ""
            if not late:
                late.append(View(feed))

    topic = SlowTopic()
    feed = FlowFeed(topic.open)
    feed.start()
    view = View(feed)
    until(lambda: topic.started == 1)
    topic.fails_at = "bounds"
    until(lambda: True in view.states())
    feed.leave(view.watcher)
    until(lambda: bool(late) and late[0].states() == [True, False])
    feed.stop()


def test_what_comes_faster_than_it_is_taken_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.web.feed._COMPARE_S", 0.05)
    topic = BusyTopic(100)
    skipped: dict[str, int] = {}
    feed = FlowFeed(topic.open, skipped.__setitem__)
    feed.start()
    view = View(feed)
    until(lambda: topic.starts == [100])
    topic.end = 3000  # so few do not matter
    until(lambda: topic.at > 120)
    assert skipped == {}
    topic.end = 50_000
    until(lambda: topic.starts == [100, 50_000])
    until(lambda: any(name == "behind" for name, _ in view.sent))
    (said,) = [data["skipped"] for name, data in view.sent if name == "behind"]
    assert said == skipped["behind"] > 40_000
    topic.end += 1
    until(lambda: "r1-50001" in view.ids())
    feed.stop()
