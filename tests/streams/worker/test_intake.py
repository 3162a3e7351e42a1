"""What is read, taken together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from enrich.wire.batch import VERDICT
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import InFlightTracker
from streams.worker.intake import _MERGE_VERDICTS, Intake

_MANY = 1 << 30


def event(offset: int, partition: int = 0, verdicts: int = 1) -> Any:
    """An event of Faust's."""
    message = SimpleNamespace(partition=partition, offset=offset)
    return SimpleNamespace(message=message, value=bytes(verdicts * VERDICT.itemsize))


def intake() -> Intake:
    ledger = InFlightTracker(_MANY, _MANY, asyncio.get_running_loop().call_soon_threadsafe, lambda *_: None)
    return Intake(ledger, EnrichMetrics(CollectorRegistry()))


def offsets(taken: Any) -> list[int]:
    return [tracked.offset for tracked, _, _ in taken]


def test_what_comes_within_some_turns_of_the_loop_is_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # However busy the machine is.
    monkeypatch.setattr("streams.worker.intake._GATHER_S", 0.5)

    async def run() -> list[int]:
        desk = intake()
        taking = asyncio.create_task(desk.take())
        for offset in range(20):
            await desk.put(event(offset), None)
            await asyncio.sleep(0)
        return offsets(await taking)

    assert asyncio.run(run()) == list(range(20))


def test_what_is_full_is_taken_at_once_and_no_more_than_is_well_taken() -> None:
    async def run() -> list[list[int]]:
        desk = intake()
        for offset in range(5):
            await desk.put(event(offset, verdicts=_MERGE_VERDICTS // 2), None)
        return [offsets(await desk.take()) for _ in range(3)]

    assert asyncio.run(run()) == [[0, 1], [2, 3], [4]]


def test_what_is_forgotten_while_more_is_waited_for_is_not_taken() -> None:
    async def run() -> list[int]:
        desk = intake()
        taking = asyncio.create_task(desk.take())
        await desk.put(event(1, partition=1), None)
        await asyncio.sleep(0)
        desk.forget([1])
        await asyncio.sleep(0.05)
        assert not taking.done()
        await desk.put(event(9), None)
        return offsets(await taking)

    assert asyncio.run(run()) == [9]
