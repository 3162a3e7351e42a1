"""What an error of Kafka's means for the record that it is about."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from enrich.diagnosis.rights import missing_right, user_of
from streams.kafka.connection import Connection

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


_NO_RIGHT: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
"""Errors that end when somebody gives the service a right, which need not end the service."""


def error_text(error: Exception) -> str:
    """Return what is wrong with a call of Kafka's client: a KafkaException, or a TimeoutError."""
    return str(error.args[0].str()) if isinstance(error, KafkaException) else "no answer"


def lacks_right(error: KafkaError) -> bool:
    """Return whether the service's user may not do what it tried."""
    return error.code() in _NO_RIGHT


def topic_error(connection: Connection, error: KafkaError, operation: str, topic: str) -> str:
    """Return what is wrong with an operation on a topic: the missing right with the command that gives it, if any."""
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return missing_right(operation, "topic", topic, user_of(connection))
    return f"{topic}: {error.str()}"


def is_refused(error: KafkaError) -> bool:
    """Return whether Kafka refuses the record itself, so that a retry in the same batch is useless."""
    return error.code() in _REFUSED
