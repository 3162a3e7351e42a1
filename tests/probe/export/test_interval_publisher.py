"""The publisher of address intervals, without Kafka. ``tests/kafka`` has what needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from enrich.wire.topics import topics
from probe.export.interval_publisher import AddressIntervalPublisher

_PATIENCE_S = 30


class _Publisher(AddressIntervalPublisher):
    """Tells when it has had nothing to do, and when it makes sure of its topic."""

    def __init__(self) -> None:
        self.was_idle, self.looked = threading.Event(), threading.Event()
        super().__init__(topics("t", 4).endpoints, {"bootstrap.servers": "127.0.0.1:1"})

    def _measure(self) -> None:
        super()._measure()
        self.was_idle.set()

    def _create_topic(self) -> bool:
        self.looked.set()
        return True


@pytest.fixture
def publisher() -> Iterator[_Publisher]:
    made = _Publisher()
    yield made
    made.stop(0)


def test_the_topic_is_made_before_the_first_record_however_late_that_is(publisher: _Publisher) -> None:
    assert publisher.was_idle.wait(_PATIENCE_S)
    assert not publisher.looked.is_set()

    publisher.publish({b"c1/n1/10.0.0.1/uid": b"{}"})

    assert publisher.looked.wait(_PATIENCE_S), "a broker that makes the topic by itself does not make it compacted"


def test_what_waits_is_bounded_and_deletions_go_first(publisher: _Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.export.interval_publisher._MAX_WAITING", 4)
    monkeypatch.setattr(publisher, "_send", lambda: None)
    publisher.publish({b"old": b"{}", b"gone": None})
    publisher.publish({b"new": b"{}"})
    publisher.publish({b"newer": b"{}", b"newest": b"{}", b"old": b"{1}"})
    assert publisher._waiting == {b"old": b"{1}", b"new": b"{}", b"newer": b"{}", b"newest": b"{}"}
    publisher.publish({b"last": b"{}"})
    assert list(publisher._waiting) == [b"new", b"newer", b"newest", b"last"]
    assert publisher.dropped == {"refused": 0, "queue_full": 2}
