"""The measurement of the node's clock against the brokers' (``probe.export.broker_clock``)."""

from __future__ import annotations

from typing import Any

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME

from enrich.wire.clock_skew import MAX_CORRECTED_NS, correction_ns, is_absurd
from probe.export.broker_clock import BrokerClock

MS = 1_000_000
S = 1000 * MS


class Node:
    """A node with a clock that may be wrong, and a broker whose clock is true."""

    def __init__(self, ahead_ns: int = 0) -> None:
        self.true_ns, self.ahead_ns, self.suspended_ns = 1_795_890_000 * S, ahead_ns, 0
        self.clock = BrokerClock(lambda: self.true_ns + self.ahead_ns, lambda: self.true_ns - self.suspended_ns)
        self.answers = 0

    def answer(self, there_ms: int = 5, back_ms: int = 5, kind: int = TIMESTAMP_LOG_APPEND_TIME) -> None:
        """Send a record; its answer comes."""
        measured = self.clock.measuring(self._count)
        self.true_ns += there_ms * MS
        appended = self.true_ns // MS
        self.true_ns += back_ms * MS
        measured(None, type("Answer", (), {"timestamp": lambda _: (kind, appended)})())
        self.true_ns += 10 * S

    def _count(self, _error: Any, _message: Any) -> None:
        self.answers += 1


def test_the_offset_is_within_its_uncertainty_and_gets_better() -> None:
    node = Node(4 * S + 123 * MS)
    assert node.clock.ahead_ns() is None
    node.answer(300, 10)
    for there, back in ((1, 200), (2, 2), (500, 500), (3, 90)):
        node.answer(there, back)
        measured = node.clock.measure()
        assert measured is not None
        offset, uncertainty = measured
        assert abs(offset - node.ahead_ns) <= uncertainty
    assert uncertainty < 15 * MS
    ahead = node.clock.ahead_ns()
    assert ahead is not None
    assert abs(ahead - node.ahead_ns) < 100 * MS
    assert node.answers == 5


def test_what_is_published_stays_the_same_until_the_clock_is_set_and_then_follows_at_once() -> None:
    node = Node()
    published = set()
    for number in range(100):
        node.answer(2 + number % 7, 1 + number % 5)
        published.add(node.clock.skew)
    assert len(published) <= 3
    assert node.clock.ahead_ns() == 0
    for ahead in (-7 * S, 3600 * S, 0):
        node.ahead_ns = ahead  # a step is followed before the next answer
        assert abs((node.clock.ahead_ns() or 0) - ahead) < 20 * MS
    node.suspended_ns += 60 * S  # the monotonic clock stands still meanwhile
    node.answer()
    assert node.clock.ahead_ns() == 0


def test_a_wrong_clock_is_reported() -> None:
    node = Node()
    assert node.clock.notes() == []
    node.answer()
    assert node.clock.notes() == []
    for ahead, text in ((5 * S, "corrected for it"), (-5 * S, "corrected for it"), (90_000 * S, "too much")):
        node.ahead_ns = ahead
        (note,) = node.clock.notes()
        assert text in note


def test_an_answer_without_the_brokers_time_says_nothing() -> None:
    node = Node()
    node.answer(kind=TIMESTAMP_CREATE_TIME)
    assert node.clock.skew is None
    assert node.answers == 1


def test_an_offset_is_used_if_it_is_worth_it_and_sure_and_not_absurd() -> None:
    assert correction_ns(None) == correction_ns((100 * MS, 1)) == correction_ns((5 * S, 6 * S)) == 0
    assert correction_ns((5 * S, S)) == 5 * S
    assert correction_ns((-5 * S, S)) == -5 * S
    for absurd in (MAX_CORRECTED_NS + 1, -MAX_CORRECTED_NS - 1):
        assert correction_ns((absurd, 0)) == 0
        assert is_absurd((absurd, 0))
    assert not is_absurd((MAX_CORRECTED_NS, 0))
