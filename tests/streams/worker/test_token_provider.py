"""Faust's client gets a token that is valid; an endpoint that is slow or away stops nothing before it must."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from enrich.runtime.token_endpoint import Token, TokenError
from streams.worker import token_provider
from streams.worker.token_provider import TokenProvider


class _Endpoint:
    """Gives numbered tokens."""

    def __init__(self) -> None:
        self.asked = 0
        self.lifetime_s = 300.0
        self.is_away = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self, _connection: object, _timeout_s: float) -> Token:
        self.goes_on.wait(60)
        self.asked += 1
        if self.is_away:
            raise TokenError("the endpoint is away")
        return Token(f"token {self.asked}", self.lifetime_s)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> _Endpoint:
    made = _Endpoint()
    monkeypatch.setattr(token_provider, "fetch_token", made)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = time.monotonic()

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    return forward


def test_one_token_serves_all_connections_until_most_of_its_life_is_over(
    endpoint: _Endpoint, clock: Callable[[float], None]
) -> None:
    async def run() -> None:
        provider = TokenProvider({})
        assert set(await asyncio.gather(*(provider.token() for _ in range(5)))) == {"token 1"}
        clock(239)
        assert await provider.token() == "token 1"
        clock(2)
        assert await provider.token() == "token 2"

    asyncio.run(run())
    assert endpoint.asked == 2


def test_while_the_endpoint_is_away_a_token_is_used_until_it_expires(
    endpoint: _Endpoint, clock: Callable[[float], None]
) -> None:
    async def run() -> None:
        provider = TokenProvider({})
        await provider.token()
        endpoint.is_away = True
        clock(299)
        assert await provider.token() == "token 1"
        clock(2)
        with pytest.raises(ConnectionError, match="the endpoint is away"):
            await provider.token()

    asyncio.run(run())


def test_a_silent_endpoint_does_not_block_the_loop(endpoint: _Endpoint) -> None:
    endpoint.goes_on.clear()

    async def run() -> None:
        provider = TokenProvider({})
        waiting = asyncio.create_task(provider.token())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        endpoint.goes_on.set()
        assert await waiting == "token 1"

    asyncio.run(run())


def test_no_connection_waits_for_a_silent_endpoint_while_there_is_a_valid_token(
    endpoint: _Endpoint, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_provider, "_GRACE_S", 0)

    async def run() -> None:
        provider = TokenProvider({})
        await provider.token()
        endpoint.goes_on.clear()
        clock(241)
        assert [await provider.token() for _ in range(3)] == ["token 1"] * 3
        assert sum(one.name == "token" for one in threading.enumerate()) == 1, "it is asked once at a time"
        endpoint.goes_on.set()
        assert provider._renewal is not None
        await provider._renewal
        assert await provider.token() == "token 2"

    asyncio.run(run())
    assert endpoint.asked == 2


def test_an_answer_that_comes_too_late_harms_nothing(endpoint: _Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    monkeypatch.setattr(token_provider, "_PATIENCE_S", 0.01)
    endpoint.goes_on.clear()

    async def run() -> None:
        with pytest.raises(ConnectionError, match="has not answered within"):
            await TokenProvider({}).token()

    asyncio.run(run())
    thread = next(one for one in threading.enumerate() if one.name == "token")
    endpoint.goes_on.set()
    thread.join(60)
    assert not died


def test_extensions_are_sent_by_name() -> None:
    assert TokenProvider({"sasl.oauthbearer.extensions": "a=1,b=x=y"}).extensions() == {"a": "1", "b": "x=y"}
    assert TokenProvider({}).extensions() == {}
