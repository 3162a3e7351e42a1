"""Health is about the whole cluster: a right for one namespace does not show it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, TokenGate
from streams.cli.runs import Ended
from streams.metrics.web import WebMetrics
from streams.web import commands, health
from streams.web.answers import Answers, RefusedError
from streams.web.health import Health
from tests.waiting import until


def ask(gate: TokenGate | None, monkeypatch: pytest.MonkeyPatch, query: bytes = b"") -> tuple[Any, list[Any]]:
    """Return the answer, and the commands that were run for it."""
    run_for: list[Any] = []

    async def run(words: Any, *_: Any) -> tuple[Ended, bytes]:
        run_for.append(words)
        return Ended(0, is_late=False, lines=[]), b'{"nodes": []}'

    monkeypatch.setattr(commands, "run_whole", run)
    request = Request({"type": "http", "headers": [(b"authorization", b"Bearer t")], "query_string": query})

    async def look() -> Any:
        view = Health(Answers(WebMetrics(CollectorRegistry()), gate, "c1"), "c1")
        return await view._health(request), await view._health(request)

    return asyncio.run(look()), run_for


def test_who_may_see_one_namespace_does_not_see_health(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = TokenGate(lambda _, namespace: ALLOWED if namespace == "shop" else FORBIDDEN)
    until(lambda: gate.look("t", "") == FORBIDDEN)
    with pytest.raises(RefusedError, match="in all namespaces") as caught:
        ask(gate, monkeypatch)
    assert caught.value.status == 403


def test_an_answer_is_kept_for_those_who_look_together(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = TokenGate(lambda _, namespace: FORBIDDEN if namespace else ALLOWED)
    until(lambda: gate.look("t", "") == ALLOWED)
    answers, run_for = ask(gate, monkeypatch)
    assert answers == ({"nodes": []}, {"nodes": []})
    assert run_for == [("status", "-o", "json", "--since", "1h", "--cluster", "c1")]


def test_a_failure_is_kept_for_those_who_wait_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the last of ten people waits ten times as long as the command may take."""
    run_for: list[Any] = []

    async def run(words: Any, *_: Any) -> tuple[Ended, bytes]:
        run_for.append(words)
        await asyncio.sleep(0)
        return Ended(None, is_late=True, lines=[]), b""

    monkeypatch.setattr(commands, "run_whole", run)
    request = Request({"type": "http", "headers": [], "query_string": b""})

    async def look() -> Any:
        view = Health(Answers(WebMetrics(CollectorRegistry()), None, "c1"), "c1")
        return await asyncio.gather(*(view._health(request) for _ in range(10)), return_exceptions=True)

    found = asyncio.run(look())
    assert [(type(one), one.status) for one in found] == [(RefusedError, 503)] * 10
    assert len(run_for) == 1


def test_an_answer_that_is_too_old_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: Any) -> tuple[Ended, bytes]:
        return Ended(0, is_late=False, lines=[]), b'{"nodes": []}'

    monkeypatch.setattr(commands, "run_whole", run)
    monkeypatch.setattr(health, "_KEPT_S", 0.0)

    async def look() -> Any:
        view = Health(Answers(WebMetrics(CollectorRegistry()), None, "c1"), "c1")
        for window in (b"since=15m", b"since=1h", b"since=24h"):
            await view._health(Request({"type": "http", "headers": [], "query_string": window}))
        return list(view._kept)

    assert asyncio.run(look()) == ["24h"]


def test_only_some_times_can_be_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="must be one of") as caught:
        ask(None, monkeypatch, b"since=9y")
    assert (caught.value.status, caught.value.field) == (400, "since")
