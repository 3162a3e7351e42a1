"""What a transaction does when the client fails for good (``streams.kafka.exactly_once``), without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError, Write

FATAL = KafkaException(KafkaError(KafkaError._FENCED, "another worker has its id", fatal=True))


class Producer:
    """Fails when a transaction ends, as confluent_kafka's does whose callbacks call into C after a fatal error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, _name: str) -> Any:
        return lambda *_, **_options: None

    def commit_transaction(self, _timeout_s: float) -> None:
        raise self._error

    def abort_transaction(self, _timeout_s: float) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "why"),
    [(FATAL, "another worker"), (SystemError("a result with an exception set"), "a fatal error: a res")],
)
def test_a_transaction_that_a_fatal_error_ends_is_aborted(error: Exception, why: str) -> None:
    made = ExactlyOnce({"bootstrap.servers": "127.0.0.1:1"}, "g", ["t"], "id", lambda _: 0, lambda _: None)
    made._producer = Producer(error)
    with pytest.raises(TransactionAbortedError, match=why):
        made.commit([Write("t", b"key", b"value")])
    made.close()
