"""What fires is known from the newest states: the whole topic once, then what is new in it."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.runtime.settings import load
from streams.kafka.connection import NoTopicError, ReadError
from streams.kafka.reading_limit import ReadingLimitError
from streams.kafka.records import Record
from streams.settings import Settings
from streams.web import firing
from streams.web.firing import FiringAlerts
from tests.streams.web.test_alerts import make_state


class Topic:
    """A topic of states with two partitions, and how much was read of it."""

    def __init__(self) -> None:
        self.values: dict[int, list[tuple[bytes, bytes]]] = {0: [], 1: []}
        self.first = {0: 0, 1: 0}
        self.is_there, self.read, self.limit = True, 0, 1 << 30
        self.members: int | None = 1

    def put(self, key: bytes, value: bytes, partition: int = 0) -> None:
        self.values[partition].append((key, value))

    def open(self, *_: object) -> Topic:
        if not self.is_there:
            raise NoTopicError("there is no topic")
        return self

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {one: (self.first[one], self.first[one] + len(values)) for one, values in self.values.items()}

    def start(self, offsets: dict[int, int]) -> None:
        self._next, self._left = dict(offsets), self.limit

    def take(self, *_: object) -> list[Record]:
        for partition, values in self.values.items():
            if (at := self._next[partition] - self.first[partition]) < len(values):
                if not self._left:
                    raise ReadingLimitError("this needs more")
                self._left -= 1
                self.read += 1
                self._next[partition] += 1
                return [Record(partition, self.first[partition] + at, *values[at], 0)]
        return []

    def ended(self) -> set[int]:
        return {one for one, (_, end) in self.bounds().items() if self._next[one] >= end}

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    made = Topic()
    monkeypatch.setattr(firing, "TopicReader", made.open)
    monkeypatch.setattr(firing, "others_of", lambda *_: made.members)
    return made


def make_reader(**settings: str) -> FiringAlerts:
    return FiringAlerts(load(Settings, {"WEIR_CLUSTER": "c1", **settings}), dict)


def rules(reader: FiringAlerts) -> list[str]:
    return sorted(one.alert.rule for one in reader.read().alerts)


def test_later_reads_take_what_is_new(topic: Topic) -> None:
    reader = make_reader()
    one, other = make_state("one"), make_state("other")
    topic.put(*one)
    topic.put(*other, 1)
    assert rules(reader) == ["one", "other"]
    assert topic.read == 2
    topic.put(one[0], b"")
    topic.put(*make_state("third"), 1)
    assert rules(reader) == ["other", "third"]
    assert topic.read == 4
    topic.put(*make_state("other", status="pending"), 1)
    assert rules(reader) == ["third"]


@pytest.mark.parametrize("change", ["deleted", "compacted", "old"])
def test_what_may_have_left_no_trace_is_read_as_a_whole(
    topic: Topic, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = make_reader()
    topic.put(*make_state("one"))
    topic.put(*make_state("two"))
    assert rules(reader) == ["one", "two"]
    match change:
        case "deleted":  # and made again, with less in it
            topic.values[0] = [make_state("two")]
        case "compacted":
            topic.first[0], topic.values[0] = 9, [make_state("two")]
        case "old":
            topic.values[0][0] = (b"gone", b"")
            monkeypatch.setattr(firing, "_WHOLE_S", -1.0)
    assert rules(reader) == ["two"]


def test_a_topic_that_takes_too_long_is_read_on_by_the_next_call(topic: Topic) -> None:
    reader = make_reader()
    for number in range(5):
        topic.put(*make_state(f"r{number}"))
    topic.limit = 2
    for _ in range(2):
        with pytest.raises(ReadError):
            reader.read()
    assert len(rules(reader)) == 5
    assert topic.read == 5


@pytest.mark.parametrize("limit", ["MAX_KEPT", "_MAX_KEPT_BYTES"])
def test_no_more_are_kept_than_fit_and_the_others_are_counted(
    topic: Topic, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    states = [make_state(f"r{number}") for number in range(5)]
    monkeypatch.setattr(firing, limit, 3 if limit == "MAX_KEPT" else 3 * len(states[0][1]))
    reader = make_reader()
    for state in states:
        topic.put(*state)
    assert (len(reader.read().alerts), reader.read().left_out) == (3, 2)
    topic.put(states[4][0], b"")
    assert reader.read().left_out == 1
    topic.put(states[0][0], b"")
    topic.put(*states[3])
    assert rules(reader) == ["r1", "r2", "r3"]
    assert reader.read().left_out == 0


def test_whether_the_role_runs_is_said(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    topic.put(*make_state())
    reader = make_reader()
    said: dict[Any, str] = {}
    for members in (1, 0, None):
        topic.members = members
        said[members] = reader.read().role
    assert said == {1: "running", 0: "stopped", None: "unknown"}
    topic.is_there = False
    assert (reader.read().alerts, reader.read().role) == ([], "absent")
    topic.is_there = True
    assert len(reader.read().alerts) == 1

    # Without a cluster, the groups of all of them are looked for.
    found: list[str] = []
    monkeypatch.setattr(firing, "group_names", lambda *_: found)
    every = FiringAlerts(load(Settings, {}), dict)
    topic.members = 0
    assert every.read().role == "unknown", "without a right Kafka lists no group"
    found += ["kubeweir.c1.alerts.engine", "kubeweir.c1.enrich"]
    assert every.read().role == "stopped"
