"""The publisher of address intervals, without Kafka. ``tests/kafka`` has what needs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from enrich.wire.topics import topics
from probe.export.interval_publisher import AddressIntervalPublisher
from tests.authority import make_authority
from tests.waiting import until

_PATIENCE_S = 240


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
    monkeypatch.setattr(publisher, "_send", lambda _: None)
    publisher.publish({b"old": b"{}", b"gone": None})
    publisher.publish({b"new": b"{}"})
    publisher.publish({b"newer": b"{}", b"newest": b"{}", b"old": b"{1}"})
    assert publisher._waiting == {b"old": b"{1}", b"new": b"{}", b"newer": b"{}", b"newest": b"{}"}
    publisher.publish({b"last": b"{}"})
    assert list(publisher._waiting) == [b"new", b"newer", b"newest", b"last"]
    assert publisher.dropped == {"refused": 0, "queue_full": 2}


# --- what the client or Kafka refuses

KEY = b"c1/n1/10.0.0.1/uid"
TOPIC = topics("t", 4).endpoints
_Answer = Callable[[KafkaError | None, "_Record"], None]


class _Record:
    """Stands in for the record that comes with Kafka's answer."""

    def key(self) -> bytes:
        return KEY


class _Kafka:
    """What a stand-in for librdkafka's producer meets: it raises ``fatal``, or answers each record by ``error``."""

    def __init__(self) -> None:
        self.fatal: KafkaError | None = None
        self.error: KafkaError | None = None
        self.producers: list[_Producer] = []


class _Producer:
    """As confluent_kafka's: ``poll`` raises a fatal error once, and ``produce`` refuses all records after it."""

    def __init__(self, kafka: _Kafka) -> None:
        self._kafka, self._fatal, self.is_broken = kafka, kafka.fatal, kafka.fatal is not None
        self._answers: list[_Answer] = []
        kafka.producers.append(self)

    def produce(self, _topic: str, _value: bytes, _key: bytes, on_delivery: _Answer) -> None:
        if self.is_broken:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        self._answers.append(on_delivery)

    def poll(self, timeout: float) -> int:
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise KafkaException(fatal)
        time.sleep(min(timeout, 0.01))
        while self._answers:
            self._answers.pop()(self._kafka.error, _Record())
        return 0

    def purge(self) -> None:
        self._answers.clear()

    def flush(self, _timeout: float) -> int:
        return 0


class _Sender(AddressIntervalPublisher):
    """Sends by stand-ins."""

    def __init__(self, kafka: _Kafka, stall_s: float = 30.0) -> None:
        self._kafka = kafka
        super().__init__(TOPIC, {"bootstrap.servers": "127.0.0.1:1"}, stall_s)

    def _new_producer(self) -> _Producer:
        return _Producer(self._kafka)

    def _create_topic(self) -> bool:
        return True

    def _is_reachable(self) -> bool:
        return True


def test_a_bad_authority_at_the_start_is_a_problem_until_the_file_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text("no certificate")
    config = {"bootstrap.servers": "127.0.0.1:1", "security.protocol": "ssl", "ssl.ca.location": str(file)}
    publisher = AddressIntervalPublisher(TOPIC, config, stall_s=0.1)
    try:
        publisher.publish({KEY: b"{}"})
        until(lambda: "ssl.ca.location failed" in (publisher.problem or ""))
        make_authority(file)
        until(lambda: "ssl.ca.location failed" not in (publisher.problem or ""))
        assert "Kafka has acknowledged no address interval" in (publisher.problem or "")
    finally:
        publisher.stop(0)


def test_a_right_that_is_missing_for_the_producer_itself_is_named_while_a_record_waits() -> None:
    kafka = _Kafka()
    kafka.fatal = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "no number", fatal=True)
    publisher = _Sender(kafka)
    try:
        until(lambda: publisher.refusal.total > 0)
        assert publisher.problem is None, "nothing is kept from Kafka, and nothing would show that the right is back"
        publisher.publish({KEY: b"{}"})
        until(lambda: publisher.refusal.total > 1)
        assert "User:ANONYMOUS has no right WRITE on the topic t.endpoints: kafka-acls --add" in (
            publisher.problem or ""
        )
        kafka.fatal = None
        until(lambda: publisher.published == 1)
        assert publisher.problem is None
    finally:
        publisher.stop(0)


def test_a_producer_that_is_broken_when_a_record_comes_is_replaced() -> None:
    """Until ``poll`` has raised a fatal error, ``produce`` says only that there was one."""
    kafka = _Kafka()
    publisher = _Sender(kafka)
    try:
        until(lambda: bool(kafka.producers))
        kafka.producers[0].is_broken = True
        publisher.publish({KEY: b"{}"})
        until(lambda: publisher.published == 1)
        assert len(kafka.producers) == 2
    finally:
        publisher.stop(0)


def test_a_refusal_is_not_a_stall() -> None:
    kafka = _Kafka()
    kafka.error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with structlog.testing.capture_logs() as lines:
        publisher = _Sender(kafka, stall_s=0.02)
        try:
            publisher.publish({KEY: b"{}"})
            until(lambda: publisher.refusal.total >= 3)
            assert publisher._stall.is_stalled
        finally:
            publisher.stop(0)
    assert [line["event"] for line in lines] == ["Kafka refuses address intervals: they wait, and are sent again"]
