"""Sends single records: alone, with a wait for Kafka's answer, or in a transaction, which waits for all answers."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.kafka.dead_letter_form import Headers


def send_one(
    producer: Producer,
    topic: str,
    key: bytes | None,
    value: bytes,
    headers: Headers,
    waits: Callable[[], bool],
    partition: int = -1,
) -> list[KafkaError | None]:
    """Return Kafka's answer, None if it has the record; an empty list if ``waits`` returns False before it answers.

    A producer that can send nothing more, ever, says why only once, and ``poll`` raises that instead of calling back.
    An idempotent producer whose user may write nothing knows it before its first record: so it is polled first, too."""
    answers: list[KafkaError | None] = []
    try:
        producer.poll(0)
        producer.produce(
            topic, value, key, partition, headers=headers, on_delivery=lambda error, _message: answers.append(error)
        )
        while not answers and waits():
            producer.poll(0.2)
    except KafkaException as error:
        return [error.args[0]]
    return answers


def send_in_transaction(
    producer: Producer, topic: str, key: bytes | None, value: bytes | None, partition: int, errors: list[KafkaError]
) -> None:
    """Send a record in the transaction that is open, and wait while the producer has no room.

    ``errors`` gets what Kafka answers if it refuses the record; then it refuses the commit, too."""

    def on_delivery(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            errors.append(error)

    while True:
        try:
            producer.produce(topic, value, key, partition=partition, on_delivery=on_delivery)
        except BufferError:
            producer.poll(0.05)
        else:
            return
