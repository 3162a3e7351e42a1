"""Tokens for Faust's client, aiokafka, which has no way of its own to ask for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog
from aiokafka.abc import AbstractTokenProvider

from enrich.runtime.token_endpoint import Token, TokenError, fetch_token

log = structlog.get_logger("kubeweir.streams")

_ANSWER_S: Final = 5.0
_PATIENCE_S: Final = 15.0
_GRACE_S: Final = 1.0
"""How long a connection waits for a new token while there is a valid one."""
_RENEW_AT: Final = 0.8
"""The part of a token's lifetime after which the next one is asked for. librdkafka renews then, too."""


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Gives each new connection a token that is valid, from the endpoint that librdkafka asks."""

    def __init__(self, connection: Mapping[str, str]) -> None:
        """``connection`` has librdkafka's settings."""
        self._connection = dict(connection)
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._fetched_at = 0.0

    async def token(self) -> str:
        """Return the token in use, or a new one if most of its lifetime is over.

        A valid one is returned after ``_GRACE_S`` even if the endpoint says nothing; the endpoint is asked on.
        Raises ConnectionError without a valid one, after which aiokafka tries again."""
        async with self._lock:
            if self._token is not None and _RENEW_AT <= self._part_over() < 1:
                if self._renewal is None or self._renewal.done():
                    self._renewal = asyncio.create_task(self._renew())
                await asyncio.wait({self._renewal}, timeout=_GRACE_S)
            if self._token is None or self._part_over() >= 1:
                self._token = await self._renewed()
            return self._token.value

    def extensions(self) -> dict[str, str]:
        """Return what is sent to the broker beside the token."""
        texts = self._connection.get("sasl.oauthbearer.extensions", "")
        return dict(text.partition("=")[::2] for text in texts.split(",") if text)

    def _part_over(self) -> float:
        """Return which part of the token's lifetime is over."""
        return (time.monotonic() - self._fetched_at) / self._token.lifetime_s if self._token else 1.0

    async def _renew(self) -> None:
        """Replace a token that is still valid. Never raises."""
        try:
            self._token = await self._renewed()
        except ConnectionError as error:
            log.warning("no new token for Kafka; the present one is still valid", error=str(error))

    async def _renewed(self) -> Token:
        since = time.monotonic()
        try:
            token = await asyncio.wait_for(self._ask(), _PATIENCE_S)
        except (TokenError, TimeoutError) as error:
            text = str(error) or f"the token endpoint has not answered within {_PATIENCE_S:.0f} s"
            raise ConnectionError(text) from error
        self._fetched_at = since
        return token

    async def _ask(self) -> Token:
        """Ask on a thread of its own, because an endpoint may be slow; no thread keeps the process from ending."""
        answer: concurrent.futures.Future[Token] = concurrent.futures.Future()

        def ask() -> None:
            # From here on the future can no longer be cancelled: its result can be set even if no task awaits it.
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(fetch_token(self._connection, _ANSWER_S))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="token", daemon=True).start()
        return await asyncio.wrap_future(answer)
