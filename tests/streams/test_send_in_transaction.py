"""Records of a transaction, while the producer has no room and when Kafka refuses one."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError

from streams.kafka.send_one import send_in_transaction


class _Producer:
    """Has room only after it was polled twice, and answers with an error or without one."""

    def __init__(self, error: KafkaError | None) -> None:
        self.error, self.polls = error, 0
        self.produced: list[tuple[Any, ...]] = []

    def produce(self, topic: str, value: bytes, key: bytes, *, partition: int, on_delivery: Any) -> None:
        if self.polls < 2:
            raise BufferError
        self.produced.append((topic, key, value, partition))
        on_delivery(self.error, None)

    def poll(self, _timeout_s: float) -> None:
        self.polls += 1


def test_a_producer_without_room_is_waited_for() -> None:
    producer: Any = _Producer(None)
    errors: list[KafkaError] = []
    send_in_transaction(producer, "pairs", b"k", b"v", -1, errors)
    assert producer.produced == [("pairs", b"k", b"v", -1)]
    assert (producer.polls, errors) == (2, [])


def test_what_kafka_refuses_is_kept_for_the_commit() -> None:
    producer: Any = _Producer(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    errors: list[KafkaError] = []
    send_in_transaction(producer, "pairs", b"k", b"v", 3, errors)
    assert [one.code() for one in errors] == [KafkaError.MSG_SIZE_TOO_LARGE]
