"""A fatal error of a real producer that still has answers to report (``probe.export.delivery_reports``)."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException

from enrich.wire.topics import topics
from probe.export.delivery_reports import DeliveryReports
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.raw_topic import RawTopic
from probe.export.spool import Spool
from tests.kafka.batches import make_batch
from tests.probe.export.spooling import append
from tests.waiting import until

UNREACHABLE: Final = {"bootstrap.servers": "127.0.0.1:1", "enable.idempotence": True, "log_level": 0}
RECORDS: Final = 3


class Producer(confluent_kafka.Producer):  # type: ignore[misc]  # it has no types
    """A producer that has a fatal error before it takes records back, so that it reports both in one call."""

    def __init__(self) -> None:
        super().__init__(UNREACHABLE)
        self.fails = True

    def fail(self) -> None:
        """Have librdkafka raise a fatal error, by what it has for tests."""
        (library,) = Path(f"{confluent_kafka.__path__[0]}.libs").glob("librdkafka*")
        # The first field of the binding's object is librdkafka's handle.
        handle = ctypes.c_void_p.from_address(id(self) + object.__basicsize__)
        code = KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert ctypes.CDLL(str(library)).rd_kafka_test_fatal_error(handle, code, b"a gap") == 0

    def purge(self, *args: Any, **kwargs: Any) -> None:
        if self.fails:
            self.fail()
        super().purge(*args, **kwargs)


class Topic(RawTopic):
    """A topic that is right."""

    def __init__(self) -> None:
        super().__init__(topics("t", 4).raw, UNREACHABLE)
        self.producers: list[Producer] = []

    def problem(self) -> str | None:
        return None

    def new_producer(self, _on_error: Any) -> Producer:
        self.producers.append(Producer())
        return self.producers[-1]


class Intervals(AddressIntervalPublisher):
    """Sends by such producers to a topic that is right."""

    def __init__(self) -> None:
        self.producers: list[Producer] = []
        super().__init__(topics("t", 4).endpoints, UNREACHABLE)

    def _new_producer(self) -> Producer:
        self.producers.append(Producer())
        return self.producers[-1]

    def _create_topic(self) -> bool:
        return True


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


def test_a_callback_that_takes_a_lock_would_keep_it() -> None:
    """If this fails, the client no longer calls back with an exception set, and answers need not be noted first."""
    lock, producer = threading.Lock(), Producer()

    def take(_error: Any, _message: Any) -> None:
        with lock:
            pass

    producer.produce("t", b"value", on_delivery=take)
    producer.purge()
    with pytest.raises(SystemError):
        producer.flush(1)
    assert lock.locked()


def test_every_answer_that_a_failed_producer_reports_is_acted_on() -> None:
    lock, producer, reports = threading.Lock(), Producer(), DeliveryReports()
    codes = []

    def take(error: Any, _message: Any) -> None:
        with lock:
            codes.append(error.code())

    for _ in range(RECORDS):
        producer.produce("t", b"value", on_delivery=reports.noting(take))
    reports.end(producer)
    assert codes == [KafkaError._PURGE_QUEUE] * RECORDS
    assert not lock.locked()


@pytest.mark.parametrize("cause", [KafkaException(KafkaError(KafkaError._STATE, "a gap", fatal=True)), None])
def test_an_error_that_a_callback_ran_into_is_raised_as_the_fatal_error_that_it_is(cause: Exception | None) -> None:
    """The client loses the cause now and then."""

    class Failing(Producer):
        def poll(self, *_args: Any) -> int:
            raise SystemError("returned a result with an exception set") from cause

    with pytest.raises(KafkaException, match="a gap" if cause else "returned a result") as raised:
        DeliveryReports().poll(Failing(), 1)
    assert raised.value.args[0].fatal()


def test_a_publisher_whose_producer_fails_while_it_is_replaced_sends_its_batches_again(spool: Spool) -> None:
    for number in range(RECORDS):
        append(spool, make_batch(number * 10, 10))
    publisher = Publisher(spool, topics("t", 4).raw, UNREACHABLE)
    topic = publisher._raw_topic = Topic()
    publisher.start()
    try:
        until(lambda: bool(topic.producers) and len(topic.producers[0]) >= RECORDS)
        publisher._broken = "replaced by the test"
        until(lambda: len(topic.producers) == 2 and len(topic.producers[1]) >= RECORDS)
        assert not publisher.failed.is_set()
    finally:
        publisher.stop(0)
    assert spool.unacked_batches == RECORDS


def test_intervals_wait_again_when_their_producer_fails_while_it_is_replaced() -> None:
    publisher = Intervals()
    try:
        publisher.publish({b"%d" % number: b"{}" for number in range(RECORDS)})
        until(lambda: bool(publisher.producers) and len(publisher.producers[0]) >= RECORDS)
        publisher.renew(UNREACHABLE)
        until(lambda: len(publisher.producers) == 2 and len(publisher.producers[1]) >= RECORDS)
        publisher.publish({b"next": b"{}"})
        until(lambda: len(publisher.producers[1]) > RECORDS)
    finally:
        publisher.stop(0)
