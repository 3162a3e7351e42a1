"""How a worker reads and writes checkpoints (``streams.worker.checkpoints``, ``streams.worker.takeover``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import pytest

from streams.kafka.consumer_groups import others_of
from streams.kafka.producer import RecordProducer
from streams.settings import Settings
from streams.worker import checkpoints
from streams.worker.checkpoints import Checkpoints
from streams.worker.inflight import InFlightTracker
from streams.worker.pipeline import Pipeline
from streams.worker.takeover import Takeover


class Producer:
    """Keeps what it is given, and acknowledges it when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[bytes, bytes, Callable[[Any, Any], None]]] = []

    def offer(self, _topic: str, key: bytes, value: bytes, _at: int, on_delivery: Callable[[Any, Any], None]) -> bool:
        self.waiting.append((key, value, on_delivery))
        return True

    def acknowledge(self) -> None:
        waiting, self.waiting = self.waiting, []
        for _, _, on_delivery in waiting:
            on_delivery(None, None)


def made(producer: Producer) -> Checkpoints:
    return Checkpoints(Settings(), cast(RecordProducer, producer))


def test_checkpoints_that_kafka_never_answers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_WRITE_PATIENCE_S", 0.01)

    async def scenario() -> None:
        producer = Producer()
        written = made(producer)
        # On a busy machine the patience may be over before anything is offered.
        while not producer.waiting:
            await written.write({0: b"0", 1: b"0"})
        for number in range(1, 5):
            await written.write({0: b"%d" % number, 1: b"%d" % number})
        assert [value for _, value, _ in producer.waiting] == [b"0", b"0"], "each partition has one in the queue"
        producer.acknowledge()
        await asyncio.sleep(0)
        while not producer.waiting:
            await written.write({0: b"6", 1: b"6"})
        assert [value for _, value, _ in producer.waiting] == [b"6", b"6"]

    asyncio.run(scenario())


def test_partitions_that_are_revoked_while_they_are_taken_over_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_self: Checkpoints, partitions: Collection[int], _needed: Collection[int]) -> dict[int, None]:
        return dict.fromkeys(partitions)

    monkeypatch.setattr(Checkpoints, "read", read)
    taken: list[int] = []

    class Revoked:
        """A pipeline that waits until its partitions are revoked, as with a full queue."""

        async def take_over(self, tracked: Any, *_: Any) -> None:
            taken.append(tracked.partition)
            takeover.forget([0, 1])

    takeover = Takeover(cast(Pipeline, Revoked()), made(Producer()), {})
    tracker = InFlightTracker(10, 10, lambda step: step(), lambda *_: None)
    inputs = [tracker.open(partition, 0, 1, 1, lambda _: None) for partition in (0, 1)]

    async def scenario() -> None:
        await takeover.take_over(inputs, {("raw", 0), ("raw", 1)})
        assert taken == [0]
        # They come back: both are taken over anew.
        monkeypatch.setattr(takeover, "forget", lambda _: None)
        await takeover.take_over(inputs, {("raw", 0), ("raw", 1)})
        assert taken == [0, 0, 1]

    asyncio.run(scenario())


def test_a_certificate_that_is_half_written_ends_no_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "_RETRY_S", 0.0)
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----")
    settings = Settings(kafka="127.0.0.1:1", kafka_protocol="ssl", kafka_ca=tmp_path / "ca.crt")
    found = asyncio.run(Checkpoints(settings, cast(RecordProducer, Producer())).read([0, 1], [0]))
    assert found == {0: None, 1: None}
    assert others_of(settings.connection(), "g", "m") is None
