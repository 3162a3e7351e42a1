"""How Kafka is reached, and what the log says while it cannot be reached."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from enrich.runtime.oauth import MECHANISM
from enrich.runtime.settings import SettingsError

log = structlog.get_logger("kubeweir.streams")

Connection = Mapping[str, str]
"""librdkafka's connection settings: at least ``bootstrap.servers``, and TLS and SASL where they are configured."""

CALL_TIMEOUT_S: Final = 10.0
"""Timeout of a single call to Kafka."""
_REPORT_S: Final = 15.0
_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 10.0


RELIABLE_PRODUCER: Final = {
    "enable.idempotence": True,
    "acks": "all",
    "delivery.timeout.ms": 0,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
    # The broker limits the size of a record. Its answer names the record that is too large; librdkafka's would not.
    "message.max.bytes": 16 << 20,
}
"""Settings of a producer that retries until the broker has answered, however long that takes."""

MAX_READ_AHEAD_KB: Final = 8 << 10
"""What a consumer keeps of its topic before it is asked for, in kibibytes; by default librdkafka keeps 64 MiB."""
MAX_RECEIVED_BYTES: Final = 32 << 20
BOUNDED_CONSUMER: Final = {
    # Bytes as the broker has them. Of a batch that is larger, a broker sends the whole batch, and no other.
    "fetch.max.bytes": 1 << 20,
    "fetch.message.max.bytes": 1 << 20,
    # More than the largest batch of our topics. librdkafka also inflates no zstd to more.
    "receive.message.max.bytes": MAX_RECEIVED_BYTES,
    "queued.max.messages.kbytes": MAX_READ_AHEAD_KB,
}
"""Bounds on what a consumer holds, unless WEIR_KAFKA_EXTRA has ``fetch.max.bytes``."""


def silent_logger() -> logging.Logger:
    """Return a logger that drops librdkafka's lines: several times a second, they repeat what its callbacks report."""
    logger = logging.getLogger("kubeweir.librdkafka")
    logger.disabled = True
    return logger


def checked(connection: Connection) -> Connection:
    """Return the settings. Raises :class:`SettingsError` if librdkafka does not take them.

    It is the only one that knows its settings, and that reads the certificates. No connection is made."""
    offline = {name: value for name, value in connection.items() if name != "bootstrap.servers"}
    if connection.get("sasl.mechanism") == MECHANISM:
        # A client with this mechanism asks for a token at once, and closing it waits for the answer.
        offline = {name: value for name, value in offline.items() if "sasl." not in name}
        offline["security.protocol"] = connection["security.protocol"].removeprefix("sasl_")
    try:
        Producer(offline, logger=silent_logger())
    except KafkaException as error:
        raise SettingsError(
            f"librdkafka does not take the settings of the connection: {str(error.args[0].str()).strip()}. Correct "
            "WEIR_KAFKA_EXTRA, or the files of WEIR_KAFKA_CA, WEIR_KAFKA_CERTIFICATE and WEIR_KAFKA_KEY"
        ) from error
    return connection


def admin_client(connection: Connection) -> AdminClient:
    """Return a client that lists, describes and creates topics."""
    return AdminClient(dict(connection), logger=silent_logger())


def make_consumer(connection: Connection, group: str, settings: Mapping[str, object]) -> Consumer:
    """Return a consumer that commits nothing by itself. ``settings`` are librdkafka's further ones.

    If retention has removed the records where it begins to read, it goes on with the oldest one: by default, librdkafka
    would skip everything, and go on at the end."""
    own = {"group.id": group, "enable.auto.commit": False, "enable.auto.offset.store": False}
    # librdkafka takes no answer that is larger than it may receive, and refuses settings that contradict this.
    bounds = {} if "fetch.max.bytes" in connection else BOUNDED_CONSUMER
    return Consumer(
        {**bounds, **connection, **own, "auto.offset.reset": "earliest", **settings}, logger=silent_logger()
    )


def report_unreachable(error: KafkaError) -> None:
    """Log that Kafka cannot be reached: librdkafka's ``error_cb`` of a consumer."""
    # Nothing says when it is over, so it says nothing about readiness, which is measured.
    if error.code() == KafkaError._ALL_BROKERS_DOWN:
        log.warning("Kafka cannot be reached; retrying", error=error.str())


class Backoff:
    """Exponential backoff between attempts to reach Kafka.

    It logs the error at the first attempt, then every 15 s at most."""

    def __init__(self, servers: str, stop: threading.Event) -> None:
        self._servers, self._stop = servers, stop
        self._backoff_s, self._logged_at = _FIRST_BACKOFF_S, float("-inf")

    def wait(self, why: object) -> None:
        """Wait until the next attempt is due, or until the service stops. ``why``: the error of the last attempt."""
        now = time.monotonic()
        if now - self._logged_at >= _REPORT_S:
            self._logged_at = now
            log.warning("Kafka cannot be reached; retrying", servers=self._servers, error=str(why))
        self._stop.wait(self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, _MAX_BACKOFF_S)


class ReadError(RuntimeError):
    """A topic cannot be read. The message says why, in one line."""


class NoTopicError(ReadError):
    """There is no such topic."""
