"""One person's questions keep nobody else's waiting for long."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from enrich.runtime.token_gate import FORBIDDEN, TokenGate
from streams.metrics.web import WebMetrics
from streams.web import turns as turns_module
from streams.web.answers import Answers
from streams.web.askers import Askers
from streams.web.turns import OF_ONE, GoneError, TooManyError, Turns


async def stays() -> bool:
    return False


class Questions:
    """Questions that are answered when the test says so, in the order in which they had their turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.begun = turns, list[str]()
        self._running: list[tuple[str, asyncio.Event]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, asker: str, number: int = 1, is_gone: Callable[[], Coroutine[Any, Any, bool]] = stays) -> None:
        """Ask so many questions of somebody."""
        self.tasks += [asyncio.create_task(self._one(asker, is_gone)) for _ in range(number)]
        await self.settle()

    async def _one(self, asker: str, is_gone: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        async with self.turns.turn(asker, is_gone):
            self.begun.append(asker)
            answered = asyncio.Event()
            self._running.append((asker, answered))
            await answered.wait()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def running(self) -> list[str]:
        return [asker for asker, _ in self._running]

    async def answer(self) -> None:
        """Answer the question that has run the longest."""
        self._running.pop(0)[1].set()
        await self.settle()

    async def answer_all(self) -> None:
        while self._running:
            await self.answer()


def test_others_questions_go_between() -> None:
    async def run() -> None:
        questions = Questions(Turns(1, "maps"))
        await questions.ask("ann", 5)
        await questions.ask("bob", 2)
        await questions.ask("eve")
        await questions.answer_all()
        assert questions.begun == ["ann", "bob", "eve", "ann", "bob", "ann", "ann", "ann"]

    asyncio.run(run())


def test_who_asks_again_and_again_is_not_always_first() -> None:
    async def run() -> None:
        questions = Questions(Turns(1, "maps"))
        await questions.ask("ann", 2)
        await questions.ask("bob", 2)
        for _ in range(6):
            await questions.answer()
            await questions.ask(questions.begun[-2])
        assert questions.begun == ["ann", "bob"] * 3 + ["ann"]

    asyncio.run(run())


def test_one_place_is_left_for_others() -> None:
    async def run() -> None:
        questions = Questions(Turns(3, "questions"))
        await questions.ask("ann", 6)
        assert questions.running == ["ann", "ann"]
        await questions.ask("bob", 2)
        assert questions.running == ["ann", "ann", "bob"]
        await questions.answer()
        assert questions.running == ["ann", "bob", "ann"], "both have one, and bob had the last turn"
        await questions.answer()
        assert questions.running == ["bob", "ann", "bob"]
        await questions.answer_all()
        assert questions.turns._running == {}
        assert questions.turns._turn_of == {}

    asyncio.run(run())


def test_who_has_as_many_as_may_is_told_so_and_nobody_else() -> None:
    async def run() -> None:
        questions = Questions(Turns(1, "maps"))
        await questions.ask("ann", OF_ONE + 3)
        said = [str(one.exception()) for one in questions.tasks if one.done()]
        assert len(said) == 3
        assert said[0].startswith(f"{OF_ONE} maps of yours are answered now or wait for their turn")
        await questions.ask("bob", OF_ONE)
        await questions.answer_all()
        assert Counter(questions.begun) == {"ann": OF_ONE, "bob": OF_ONE}

    asyncio.run(run())


def test_all_together_have_a_limit_and_without_authentication_all_are_one() -> None:
    async def run() -> None:
        questions = Questions(Turns(2, "maps", most=8))
        await questions.ask("", 9)
        assert questions.running == ["", ""]
        (refused,) = [one for one in questions.tasks if one.done()]
        assert "Too many maps" in str(refused.exception())
        await questions.ask("bob")
        with pytest.raises(TooManyError, match="Too many maps"):
            async with questions.turns.turn("bob", stays):
                pass
        await questions.answer()
        assert questions.running == ["", "bob"], "who has no other question has room, and the next turn"
        await questions.answer_all()
        assert len(questions.begun) == 9

    asyncio.run(run())


def test_a_browser_that_goes_gives_up_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who loads a page again and again is not told that too many questions of theirs wait."""
    monkeypatch.setattr(turns_module, "_LOOK_S", 0.0)
    gone = False

    async def is_gone() -> bool:
        return gone

    async def run() -> None:
        nonlocal gone
        questions = Questions(Turns(1, "maps"))
        await questions.ask("bob")
        await questions.ask("ann", OF_ONE, is_gone)
        gone = True
        await asyncio.wait(questions.tasks[1:])
        assert all(isinstance(one.exception(), GoneError) for one in questions.tasks[1:])
        await questions.ask("ann", OF_ONE)
        assert not any(one.done() for one in questions.tasks[-OF_ONE:])
        questions.tasks[-1].cancel()  # as a server that stops does
        questions.tasks[0].cancel()
        await questions.answer_all()
        assert questions.begun == ["bob"] + ["ann"] * (OF_ONE - 1)
        assert questions.turns._running == {}

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(5))
def test_no_place_is_lost_or_given_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By random questions, answers and cancellations."""
    monkeypatch.setattr(turns_module, "_LOOK_S", 0.0)
    chance = random.Random(seed)  # noqa: S311 - no secret

    async def run() -> None:
        questions = Questions(Turns(3, "questions"))
        for _ in range(300):
            what = chance.random()
            if what < 0.5:
                await questions.ask(chance.choice(["ann", "bob", "eve"]))
            elif what < 0.8 and questions.running:
                await questions.answer()
            else:
                waiting = questions.turns._waiting
                chance.choice(questions.tasks or [asyncio.create_task(stays())]).cancel()
                await questions.settle()
                questions._running = [one for one in questions._running if not one[1].is_set()]
                assert all(waiting.values())
            assert 0 <= questions.turns._free <= 3
            assert questions.turns._running.total() == 3 - questions.turns._free
        for task in questions.tasks:
            task.cancel()
        await questions.settle()
        assert (questions.turns._free, questions.turns._waiting, dict(questions.turns._running)) == (3, {}, {})
        await asyncio.gather(*questions.tasks, return_exceptions=True)

    asyncio.run(run())


def test_all_tokens_of_a_person_count_together() -> None:
    askers = Askers()
    askers.note("t1", "ann")
    askers.note("t2", "ann")
    assert askers.name("t1") == askers.name("t2") == "ann"
    assert askers.name("t3") != askers.name("t4")
    assert "t3" not in askers.name("t3")

    async def look(token: str) -> str:
        gate = TokenGate(lambda *_: FORBIDDEN)
        answers = Answers(WebMetrics(CollectorRegistry()), gate, "c1", askers=askers)
        headers = [(b"authorization", f"Bearer {token}".encode())]
        return (await answers.viewer(Request({"type": "http", "headers": headers}))).asker

    assert asyncio.run(look("t1")) == asyncio.run(look("t2")) == "ann"
