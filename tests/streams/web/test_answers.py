"""A question is asked for somebody who waits for its answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from streams.metrics.web import WebMetrics
from streams.web.answers import Answers
from streams.web.turns import GoneError
from streams.web.viewers import Everybody


def test_nothing_is_asked_for_a_browser_that_is_gone() -> None:
    """Six maps of a page that somebody loads again and again would keep all others waiting."""
    asked: list[str] = []

    async def waiting() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def ask() -> None:
        answers = Answers(WebMetrics(CollectorRegistry()), None, "c1")
        await answers.ask(Request({"type": "http"}, waiting), Everybody(), lambda: asked.append("waiting"))
        with pytest.raises(GoneError, match="gone"):
            await answers.ask(Request({"type": "http"}, gone), Everybody(), lambda: asked.append("gone"))

    asyncio.run(ask())
    assert asked == ["waiting"]
