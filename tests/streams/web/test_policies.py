"""The view Policies asks about what its viewer may see, in bounds, and says mistakes at their field."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, TokenGate
from streams.cli.runs import Bounds, Ended, TooMuchPrintedError
from streams.metrics.web import WebMetrics
from streams.web import commands
from streams.web.answers import Answers, RefusedError
from streams.web.commands import CannotSayError, answer_of
from streams.web.policies import MAX_FINDINGS, MAX_TEXT, Policies
from streams.web.turns import GoneError
from tests.waiting import until

PATHS = ("/api/policies", "/api/backtest", "/api/recommend")
PRINTED = {
    "policies": b'{"policies": []}', "backtest": b'{"findings": [0], "left_out": 400}', "recommend": b"[1]",
}  # fmt: skip


class Runs:
    """Stands for the commands: notes their words and what they read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words: list[Sequence[str]] = []
        self.stdin: list[bytes] = []
        monkeypatch.setattr(commands, "run_whole", self._run)

    async def _run(self, words: Sequence[str], _env: Any, stdin: bytes, bounds: Bounds) -> tuple[Ended, bytes]:
        assert bounds.max_memory
        self.words.append(words)
        self.stdin.append(stdin)
        return Ended(0, is_late=False, lines=[]), PRINTED[words[0]]


def _is_asked(gate: TokenGate, namespace: str) -> bool:
    return gate.look("t", namespace) is not None


def reader() -> TokenGate:
    """Return the gate of somebody who may see shop only."""
    gate = TokenGate(lambda _, namespace: ALLOWED if namespace == "shop" else FORBIDDEN)
    for namespace in ("", "shop", "bank"):
        until(partial(_is_asked, gate, namespace))
    return gate


def ask(gate: TokenGate | None, path: str, query: str, body: bytes = b"kind: NetworkPolicy") -> Any:
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)] or [b""]

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"authorization", b"Bearer t")],
        "query_string": query.encode(),
    }

    async def look() -> Any:
        view = Policies(Answers(WebMetrics(CollectorRegistry()), gate, "c1"), "c1")
        answers = {"/api/policies": view._policies, "/api/backtest": view._backtest, "/api/recommend": view._recommend}
        return await answers[path](Request(scope, receive))

    return asyncio.run(look())


@pytest.mark.parametrize("path", PATHS)
def test_a_reader_asks_about_a_namespace_that_they_may_see_only(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, gate = Runs(monkeypatch), reader()
    for query in ("", "namespace=bank", "namespace=bank&namespace=", "namespace=*", "namespace=shop%20--cluster=c2"):
        with pytest.raises(RefusedError) as caught:
            ask(gate, path, query)
        assert (caught.value.status in (400, 403), caught.value.field) == (True, "namespace")
    assert runs.words == []
    ask(gate, path, "namespace=shop&since=24h")
    (words,) = runs.words
    assert {"--namespace=shop", "--for-reader", "--cluster=c1", "--since=24h", "--output=json"} < set(words)


@pytest.mark.parametrize("path", PATHS)
def test_a_right_that_ends_while_a_question_waits_ends_its_answer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue may take minutes, and a right ends within 75 seconds."""
    allowed, now = {"", "shop"}, 0.0
    gate = TokenGate(lambda _, namespace: ALLOWED if namespace in allowed else FORBIDDEN, clock=lambda: now)
    runs = Runs(monkeypatch)
    run = runs._run

    async def lose_right(*given: Any) -> Any:
        nonlocal now
        allowed.discard("")
        now += 300
        return await run(*given)

    monkeypatch.setattr(commands, "run_whole", lose_right)
    with pytest.raises(RefusedError) as caught:
        ask(gate, path, "namespace=shop")
    assert (caught.value.status, len(runs.words)) == (403, 1)
    assert ask(gate, path, "namespace=shop")


def test_a_command_ends_when_the_browser_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who chooses one time after the other would keep everybody waiting for a minute each."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def long(*_: Any) -> Any:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.set()

    async def receive() -> dict[str, Any]:
        await begun.wait()
        return {"type": "http.disconnect"}

    async def look() -> None:
        view = Policies(Answers(WebMetrics(CollectorRegistry()), None, "c1"), "c1")
        await view._policies(Request({"type": "http", "headers": [], "query_string": b""}, receive))

    monkeypatch.setattr(commands, "run_whole", long)
    with pytest.raises(GoneError, match="gone"):
        asyncio.run(asyncio.wait_for(look(), 60))
    assert ended.is_set()


@pytest.mark.parametrize("gate", [None, "all"])
def test_who_may_see_everything_asks_about_everything(gate: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    made = None if gate is None else TokenGate(lambda *_: ALLOWED)
    ask(made, "/api/policies", "")
    ask(made, "/api/policies", "namespace=bank")
    assert runs.words == [
        ("policies", "--output=json", "--manifests", "--since=7d", "--cluster=c1"),
        ("policies", "--output=json", "--manifests", "--since=7d", "--cluster=c1", "--namespace=bank"),
    ]


def test_what_is_pasted_is_bounded_and_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    assert ask(None, "/api/backtest", "", b"x" * MAX_TEXT) == {"findings": [0], "left_out": 400}
    assert (runs.stdin, runs.words[0][-2:]) == ([b"x" * MAX_TEXT], ("--", "-"))
    assert f"--most={MAX_FINDINGS}" in runs.words[0]
    for body, status in ((b"x" * (MAX_TEXT + 1), 413), (b" \n", 400)):
        with pytest.raises(RefusedError) as caught:
            ask(None, "/api/backtest", "", body)
        assert (caught.value.status, caught.value.field) == (status, "policies")
    assert len(runs.words) == 1


def test_policies_are_recommended_for_one_namespace_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    with pytest.raises(RefusedError) as caught:
        ask(None, "/api/recommend", "")
    assert (caught.value.field, runs.words) == ("namespace", [])
    assert ask(None, "/api/recommend", "namespace=shop") == {"recommended": [1]}


@pytest.mark.parametrize("since", ["1y", "", "7d --cluster=c2", "-1h"])
def test_only_some_times_can_be_asked_about(since: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    with pytest.raises(RefusedError) as caught:
        ask(None, "/api/policies", f"since={since}")
    assert (caught.value.status, caught.value.field, runs.words) == (400, "since", [])


BOUNDS = Bounds(60, 1 << 20, 512 << 20)


@pytest.mark.parametrize(
    ("ended", "status", "said"),
    [
        (Ended(2, is_late=False, lines=["line 1: no", "line 2: no"]), 400, "line 1: no\nline 2: no"),
        (Ended(3, is_late=False, lines=["Kafka is away"]), 503, "Kafka is away"),
        (Ended(None, is_late=True, lines=[]), 503, "weir backtest takes longer than 60 s"),
        (Ended(None, is_late=False, lines=[], is_too_large=True), 503, "takes more than 512 MiB of memory"),
        (Ended(-9, is_late=False, lines=[]), 503, "weir backtest has said nothing"),
        (
            Ended(3, is_late=False, lines=['  File "a.py", line 7, in f', "KeyError: 'bank'"]),
            503,
            "^weir backtest has failed. The log of the page's server says where.$",
        ),
    ],
)
def test_why_there_is_no_answer(ended: Ended, status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: Any) -> tuple[Ended, bytes]:
        return ended, b""

    monkeypatch.setattr(commands, "run_whole", run)
    with pytest.raises(RefusedError, match=said) as caught:
        asyncio.run(answer_of(("backtest",), BOUNDS, b"", "policies"))
    # The page asks again unless a field has to be changed: the same would cost another minute.
    is_same = not (ended.is_late or ended.is_too_large)
    assert (caught.value.status, caught.value.field) == (
        status, "policies" if status == 400 else "" if is_same else "since",
    )  # fmt: skip


def test_what_is_kept_may_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: Any) -> tuple[Ended, bytes]:
        return Ended(3, is_late=False, lines=["cannot say: nothing was counted"]), b""

    async def much(*_: Any) -> tuple[Ended, bytes]:
        raise TooMuchPrintedError

    monkeypatch.setattr(commands, "run_whole", run)
    with pytest.raises(CannotSayError, match="nothing was counted"):
        asyncio.run(answer_of(("policies",), BOUNDS))
    monkeypatch.setattr(commands, "run_whole", much)
    with pytest.raises(RefusedError, match="says more than 1 MiB") as caught:
        asyncio.run(answer_of(("policies",), BOUNDS))
    assert caught.value.field == "since"
