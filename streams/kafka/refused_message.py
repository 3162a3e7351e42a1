"""A record that Kafka did not take, as far as it is needed to send it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A refused record in the shape of librdkafka's messages, with its headers, which a delivery report lacks."""

    _topic: str
    _key: bytes | None
    _value: bytes
    _headers: Sequence[tuple[str, bytes]] | None

    def topic(self) -> str:
        """Return the topic."""
        return self._topic

    def key(self) -> bytes | None:
        """Return the key."""
        return self._key

    def value(self) -> bytes:
        """Return the value."""
        return self._value

    def headers(self) -> list[tuple[str, bytes]] | None:
        """Return the headers, None if there are none."""
        return None if self._headers is None else list(self._headers)
