"""What an error of Kafka's means for the record that it is about."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        # librdkafka's error for the other records of a refused batch. Nothing is wrong with them: each is accepted
        # when it is sent in a batch of its own.
        KafkaError._INVALID_DIFFERENT_RECORD,
    }
)
"""Errors that a record causes, not the broker or missing rights: a retry of the same batch would fail again."""


def is_refused(error: KafkaError) -> bool:
    """Return whether Kafka refuses the record itself, so that a retry in the same batch is useless."""
    return error.code() in _REFUSED
