"""A question is asked for somebody who waits for its answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from streams.metrics.web import WebMetrics
from streams.web.answers import Answers, RefusedError, Turns


def test_nothing_is_asked_for_a_browser_that_is_gone() -> None:
    """Six maps of a page that somebody loads again and again would keep all others waiting."""
    asked: list[str] = []

    async def waiting() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def ask() -> None:
        answers = Answers(WebMetrics(CollectorRegistry()), None, "c1")
        await answers.ask(Request({"type": "http"}, waiting), lambda: asked.append("waiting"))
        with pytest.raises(RefusedError, match="gone"):
            await answers.ask(Request({"type": "http"}, gone), lambda: asked.append("gone"))

    asyncio.run(ask())
    assert asked == ["waiting"]


def test_more_than_may_wait_for_their_turn_are_refused() -> None:
    begun: list[int] = []

    async def work(turns: Turns, number: int) -> None:
        async with turns.turn():
            begun.append(number)
            await asyncio.sleep(0)

    async def run() -> list[BaseException | None]:
        turns = Turns(1, 3, "too many")
        found = await asyncio.gather(*(work(turns, number) for number in range(5)), return_exceptions=True)
        await work(turns, 5)
        return found

    found = asyncio.run(run())
    assert found[:3] == [None] * 3
    assert [(type(one), str(one)) for one in found[3:]] == [(RefusedError, "too many")] * 2
    assert begun == [0, 1, 2, 5]
