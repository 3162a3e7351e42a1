"""The publisher of batches, without Kafka. ``tests/kafka`` has what needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from enrich.wire.topics import topics
from probe.export.publisher import Publisher
from probe.export.raw_topic import RawTopic
from probe.export.spool import Spool
from tests.authority import make_authority
from tests.waiting import until

PLAIN = {"bootstrap.servers": "127.0.0.1:1"}


class Producer:
    """Stands in for librdkafka's; its first ``poll`` raises ``error``, if there is one."""

    def __init__(self, error: KafkaError | None) -> None:
        self.error, self.polled = error, 0

    def poll(self, _timeout: float) -> int:
        self.polled += 1
        error, self.error = self.error, None
        if error is not None:
            raise KafkaException(error)
        return 0

    def purge(self) -> None:
        """Have nothing to take back."""

    def flush(self, _timeout: float) -> int:
        return 0


class Topic(RawTopic):
    """A topic that is right, whose first producer breaks."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(topics("t", 4).raw, PLAIN)
        self.producers: list[Producer] = []
        self._error: KafkaError | None = error

    def problem(self) -> str | None:
        return None

    def new_producer(self, _on_error: Callable[[KafkaError], None]) -> Producer:
        self.producers.append(Producer(self._error))
        self._error = None
        return self.producers[-1]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


def test_a_bad_authority_at_the_start_is_a_problem_until_the_file_is_mended(spool: Spool, tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text("no certificate")
    publisher = Publisher(
        spool, topics("t", 4).raw, {**PLAIN, "security.protocol": "ssl", "ssl.ca.location": str(file)}
    )
    publisher.start()
    try:
        until(lambda: "librdkafka makes no client: " in (publisher.problem or ""))
        assert "ssl.ca.location failed" in (publisher.problem or "")
        make_authority(file)
        until(lambda: "Kafka cannot be reached at 127.0.0.1:1" in (publisher.problem or ""))
        assert not publisher.failed.is_set()
    finally:
        assert publisher.stop(0), "nothing waits"


def test_a_publisher_without_a_producer_can_be_stopped(spool: Spool) -> None:
    config = {**PLAIN, "security.protocol": "ssl", "ssl.ca.location": "/dev/null/ca.crt"}
    publisher = Publisher(spool, topics("t", 4).raw, config)
    publisher.start()
    assert publisher.stop(0)


def test_a_fatal_error_of_the_producer_is_named_and_replaces_it(spool: Spool) -> None:
    """librdkafka's binding raises these, and never calls ``error_cb`` for them."""
    publisher = Publisher(spool, topics("t", 4).raw, PLAIN)
    topic = publisher._raw_topic = Topic(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "a gap", fatal=True))
    with structlog.testing.capture_logs() as lines:
        publisher.start()
        try:
            until(lambda: len(topic.producers) == 2 and topic.producers[1].polled > 0)
        finally:
            publisher.stop(0)
    assert [(line["event"], line["error"]) for line in lines] == [
        ("the producer cannot go on; replacing it. Its batches are sent again", "a gap")
    ]
    assert publisher.problem is None
    assert not publisher.failed.is_set()
