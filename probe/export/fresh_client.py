"""A client of Kafka that knows nothing but the bootstrap servers, which one that is old does not ask again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from confluent_kafka.admin import AdminClient, ClusterMetadata

_TIMEOUT_S: Final = 2
_CONNECT_S: Final = 30.0
"""For so long librdkafka waits for a connection, by default."""


class FreshClient:
    """Asks Kafka which topics there are, each time by a new client.

    A client that nobody has answered is asked again for as long as its connection may still come: an overloaded broker
    is slow over a TLS handshake, and whoever begins anew after two seconds never gets there."""

    def __init__(self, make: Callable[[], AdminClient]) -> None:
        self._make = make
        self._unanswered: AdminClient | None = None
        self._made_at = 0.0

    def list_topics(self, topic: str | None = None) -> tuple[AdminClient, ClusterMetadata]:
        """Return the client, and what it was answered about one topic, or about all. Raises KafkaException."""
        if self._unanswered is None or time.monotonic() - self._made_at >= _CONNECT_S:
            self._unanswered, self._made_at = self._make(), time.monotonic()
        client = self._unanswered
        found = client.list_topics(topic, timeout=_TIMEOUT_S)
        self._unanswered = None
        return client, found
