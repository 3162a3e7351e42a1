"""A client that is replaced when it is no longer answered, as soon as it has had the time to connect."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Client = TypeVar("Client")

_CONNECT_S: Final = 30.0
"""By default, librdkafka gives up a connection whose set-up takes longer than this."""


class RenewedClient(Generic[Client]):
    """Holds a client of Kafka. Use it from one thread.

    A client that was answered before and is not answered now may hold on to brokers that are gone, so the next one asks
    the bootstrap servers again. A client that was never answered may still be connecting: an overloaded broker is slow
    over a TLS handshake, and a caller that begins anew after each call of a few seconds never gets there."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._client: Client | None = None
        self._made_at, self._was_answered = 0.0, False

    def get(self) -> Client:
        """Return the client, which is made if there is none. Raises what making it raises."""
        if self._client is None:
            self._client = self._make()
            self._made_at, self._was_answered = time.monotonic(), False
        return self._client

    def answered(self) -> None:
        """Note that Kafka has answered the client."""
        self._was_answered = True

    def unanswered(self) -> Client | None:
        """Note that Kafka has not answered a call. Return the client if it is given up, so that the caller can close
        it, and None while it is kept."""
        if self._was_answered or time.monotonic() - self._made_at >= _CONNECT_S:
            return self.give_up()
        return None

    def give_up(self) -> Client | None:
        """Let the next call of :meth:`get` make a new client, and return the old one if there is one."""
        client, self._client = self._client, None
        return client
