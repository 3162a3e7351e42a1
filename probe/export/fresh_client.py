"""A client of Kafka that knows only the bootstrap servers, which an older client does not ask again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from enrich.runtime.renewed_client import RenewedClient

_TIMEOUT_S: Final = 2


class FreshClient:
    """Asks Kafka which topics there are, each time by a new client; one that was not answered goes on while it may
    still be connecting."""

    def __init__(self, make: Callable[[], AdminClient]) -> None:
        self._client = RenewedClient(make)

    def list_topics(self, topic: str | None = None) -> tuple[AdminClient, ClusterMetadata]:
        """Return the client, and what it was answered about one topic, or about all. Raises KafkaException."""
        client = self._client.get()
        try:
            found = client.list_topics(topic, timeout=_TIMEOUT_S)
        except KafkaException:
            self._client.unanswered()
            raise
        self._client.give_up()
        return client, found
