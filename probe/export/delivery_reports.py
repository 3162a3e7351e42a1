"""Kafka's answers about records, noted while the client reports them, and acted on afterwards.

After a fatal error of an idempotent producer, the client sets an exception and goes on to call delivery callbacks:
``flush`` does so until all records are answered. A call into C that succeeds while an exception is set raises
SystemError. An example: the callback takes a lock, which is a call into C. The lock is taken, but SystemError leaves
the callback in front of the block that would release it, and the next thread that needs the lock waits for ever. So a
callback notes the answer, which is its first call, and does nothing else; and ``flush`` may raise SystemError.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

OnAnswer = Callable[[Any, Any], None]
"""A delivery callback of librdkafka's: takes an error or None, and a message."""


class DeliveryReports:
    """The answers that have not been acted on. One thread uses it."""

    def __init__(self) -> None:
        self._noted: deque[tuple[OnAnswer, Any, Any]] = deque()

    def noting(self, on_answer: OnAnswer) -> OnAnswer:
        """Return a delivery callback for a record, whose answer ``on_answer`` gets outside the client."""

        def note(error: Any, message: Any) -> None:
            self._noted.append((on_answer, error, message))

        return note

    def poll(self, producer: Producer, timeout_s: float) -> None:
        """Wait for answers, and act on them. Raises KafkaException if the producer has failed."""
        try:
            producer.poll(timeout_s)
        except SystemError as error:
            raise _cause(error) from None
        finally:
            self._act()

    def end(self, producer: Producer) -> None:
        """Take back what a producer has not sent, and act on the last answers."""
        with contextlib.suppress(KafkaException, SystemError):
            producer.purge()
            producer.flush(1)
        self._act()

    def _act(self) -> None:
        while self._noted:
            on_answer, error, message = self._noted.popleft()
            on_answer(error, message)


def _cause(error: SystemError) -> KafkaException:
    """Return the client's exception that a callback ran into."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KafkaException):
            return cause
        cause = cause.__cause__
    return KafkaException(KafkaError(KafkaError._FATAL, str(error), fatal=True))
