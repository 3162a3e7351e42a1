"""How Kafka is reached, and what is said while it is not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog
from confluent_kafka.admin import AdminClient

log = structlog.get_logger("kubeweir.streams")

Connection = Mapping[str, str]
"""librdkafka's settings of how Kafka is reached; ``bootstrap.servers`` at least."""

CALL_S: Final = 10.0
"""What a call to Kafka may take."""
_REPORT_S: Final = 15.0
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 10.0


RELIABLE: Final = {
    "enable.idempotence": True,
    "acks": "all",
    "delivery.timeout.ms": 0,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
    # What a record may weigh is the broker's to say: its answer names the record.
    "message.max.bytes": 16 << 20,
}
"""A producer that never gives up on its own."""


def quiet() -> logging.Logger:
    """librdkafka's lines repeat what the callbacks tell, several times a second."""
    logger = logging.getLogger("kubeweir.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def admin_of(connection: Connection) -> AdminClient:
    """A client that asks for topics."""
    return AdminClient({**connection, "socket.connection.setup.timeout.ms": 5000}, logger=quiet())


class Waiter:
    """Waits between tries, longer each time, and says what it waits for: at once, then now and then."""

    def __init__(self, servers: str, stop: threading.Event) -> None:
        self._servers, self._stop = servers, stop
        self._wait, self._said = _FIRST_WAIT_S, float("-inf")

    def wait(self, why: object) -> None:
        """Until the next try, or the stop."""
        now = time.monotonic()
        if now - self._said >= _REPORT_S:
            self._said = now
            log.warning("Kafka cannot be reached, trying on", servers=self._servers, error=str(why))
        self._stop.wait(self._wait)
        self._wait = min(self._wait * 2, _LONGEST_WAIT_S)


class ReadError(RuntimeError):
    """Kafka cannot be read; the message says why, in one line."""
