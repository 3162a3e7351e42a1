"""The intake: which inputs are taken together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from enrich.wire.batch import VERDICT
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import InFlightTracker
from streams.worker.intake import _GATHER_S, _MERGE_VERDICTS, Intake

_MANY = 1 << 30


def event(offset: int, partition: int = 0, verdicts: int = 1) -> Any:
    """A Faust event."""
    message = SimpleNamespace(partition=partition, offset=offset)
    return SimpleNamespace(message=message, value=bytes(verdicts * VERDICT.itemsize))


def intake() -> Intake:
    tracker = InFlightTracker(_MANY, _MANY, asyncio.get_running_loop().call_soon_threadsafe, lambda *_: None)
    return Intake(tracker, EnrichMetrics(CollectorRegistry()))


def offsets(taken: Any) -> list[int]:
    return [tracked.offset for tracked, _, _ in taken]


def test_inputs_that_arrive_within_some_turns_of_the_loop_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[int]:
        over = asyncio.Event()
        # The wait ends when all inputs have arrived, however slow the machine is.
        sleep = Mock(side_effect=lambda _: over.wait())
        monkeypatch.setattr("streams.worker.intake.asyncio", SimpleNamespace(sleep=sleep, Event=asyncio.Event))
        queue = intake()
        taking = asyncio.create_task(queue.take())
        for offset in range(20):
            await queue.put(event(offset), None)
            await asyncio.sleep(0)
        sleep.assert_called_once_with(_GATHER_S)
        over.set()
        return offsets(await taking)

    assert asyncio.run(run()) == list(range(20))


def test_enough_verdicts_are_taken_at_once_and_never_more_than_are_worth_merging() -> None:
    async def run() -> list[list[int]]:
        queue = intake()
        for offset in range(5):
            await queue.put(event(offset, verdicts=_MERGE_VERDICTS // 2), None)
        return [offsets(await queue.take()) for _ in range(3)]

    assert asyncio.run(run()) == [[0, 1], [2, 3], [4]]


def test_an_input_whose_partition_is_revoked_during_the_wait_is_not_taken() -> None:
    async def run() -> list[int]:
        queue = intake()
        taking = asyncio.create_task(queue.take())
        await queue.put(event(1, partition=1), None)
        await asyncio.sleep(0)
        queue.forget([1])
        await asyncio.sleep(0.05)
        assert not taking.done()
        await queue.put(event(9), None)
        return offsets(await taking)

    assert asyncio.run(run()) == [9]
