"""How a worker writes counts and marks of pairs, and what it does when Kafka does not answer (no Kafka here)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry

from enrich.render.enricher import Enricher, Records
from enrich.render.merged_batch import merge
from enrich.runtime.process import Exit, StopServiceError
from enrich.wire.pair_coverage import decode_coverage
from enrich.wire.pair_place import place_of
from streams.kafka import marked_writes
from streams.kafka.marked_writes import FencedError, Mark, MarkedWriter, MarkError
from streams.metrics.pairs import PairMetrics
from streams.settings import Settings
from streams.worker import pairs as module
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.pairs import Pairs
from tests.enrich.flows import CLOCK, make_batch, make_cluster


class Writer:
    """Keeps what it is to write. ``outcomes`` are of one write after the other: an error, or an event to wait for."""

    def __init__(self) -> None:
        self.marks: dict[int, Mark] | MarkError = {}
        self.end: int | MarkError = 0
        self.asked = 0
        """How often it was asked for ends."""
        self.outcomes: list[BaseException | threading.Event] = []
        self.began = threading.Semaphore(0)
        self.written: list[tuple[int, Mapping[int, int]]] = []
        """How many records of counts each write had, and its marks."""

    def take_over(self, partitions: Collection[int]) -> dict[int, Mark]:
        if isinstance(self.marks, MarkError):
            raise self.marks
        return {partition: self.marks.get(partition, Mark(None, 0, 10_000)) for partition in partitions}

    def ends(self) -> dict[int, int]:
        self.asked += 1
        if isinstance(self.end, MarkError):
            raise self.end
        return {0: self.end}

    def write(
        self, records: Iterable[tuple[str, bytes, bytes]], marks: Mapping[int, int], _released: Collection[int] = ()
    ) -> None:
        self.began.release()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is not None:
            assert outcome.wait(240)
        places = [place_of(key) for _, key, _ in records]
        self.written.append((sum(place is not None and place.kind == "counts" for place in places), marks))

    def close(self) -> None:
        pass


def failed() -> MarkError:
    return MarkError(KafkaError(KafkaError._TIMED_OUT))


class Worker:
    """Pairs with a writer that a test controls, and inputs of partition 0."""

    def __init__(self) -> None:
        self.writer = Writer()
        self.reported: list[dict[str, Any]] = []
        self.registry = CollectorRegistry()
        self.pairs = Pairs(Settings(pairs_flush=0.01), PairMetrics(self.registry), self.reported.append,
                           lambda: CLOCK / 1e9)  # fmt: skip
        self._enricher = Enricher(make_cluster(), (), lambda: CLOCK)
        self._tracker = InFlightTracker(10**9, 10**12, lambda step: step(), lambda *_: None)

    def take(self, offset: int) -> TrackedInput:
        """Take an input of one verdict, and acknowledge it."""
        tracked = self._tracker.open(0, offset, 1, 1, lambda _: None)
        self.pairs.take([tracked])
        records: Records = self._enricher.records(merge(make_batch({"time_ns": 0})))
        self.pairs.count([tracked], records)
        self.pairs.finish(tracked)
        return tracked


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    made: list[Writer] = []
    monkeypatch.setattr(Pairs, "_new_writer", lambda _: made[0])
    monkeypatch.setattr(module, "_TICK_S", 0.01)
    made.append(Writer())
    worker = Worker()
    worker.writer = made[0]
    return worker


def test_the_write_after_a_failed_one_has_its_counts(worker: Worker) -> None:
    async def scenario() -> None:
        await worker.pairs.starts({0: 0})
        worker.take(0)
        worker.writer.outcomes = [failed()]
        # The second write is next in turn before anybody but the first one's task learns that it has failed.
        await asyncio.gather(worker.pairs._write(), worker.pairs.release([0]))

    asyncio.run(scenario())

    assert worker.writer.written[-1] == (1, {0: 1})


def test_a_write_that_nobody_waits_for_any_more_does_not_begin(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RELEASE_S", 0.05)
    end = threading.Event()

    async def scenario() -> None:
        await worker.pairs.starts({0: 0})
        worker.take(0)
        worker.writer.outcomes = [end]
        slow = asyncio.ensure_future(worker.pairs._write())
        await asyncio.to_thread(worker.writer.began.acquire)
        await worker.pairs.release([0])
        await worker.pairs.starts({0: 0})
        worker.take(0)
        end.set()
        await slow
        monkeypatch.setattr(module, "_RELEASE_S", 60.0)
        await worker.pairs.release([0])

    asyncio.run(scenario())

    assert [marks for _, marks in worker.writer.written if marks == {0: 1}] == [{0: 1}] * 2, (
        "the slow one, and the last"
    )
    assert worker.pairs.problem is None


def test_a_rebalance_does_not_wait_for_the_ends_of_the_raw_topic(worker: Worker) -> None:
    async def scenario() -> None:
        await worker.pairs.starts({0: 0})
        worker.take(0)
        await worker.pairs.release([0])
        assert worker.writer.asked == 0
        await worker.pairs._write()
        assert worker.writer.asked == 1

    asyncio.run(scenario())

    assert worker.writer.written[-1] == (1, {0: 1})


def test_an_error_that_nobody_expects_does_not_end_the_worker(worker: Worker) -> None:
    async def scenario() -> None:
        await worker.pairs.starts({0: 0})
        worker.take(0)
        worker.writer.outcomes = [ValueError("a bug")]
        assert not await worker.pairs._write()
        assert "a bug" in (worker.pairs.problem or "")
        worker.writer.marks = {0: Mark(0, 0, 1)}
        await worker.pairs._take_waiting_over()

    asyncio.run(scenario())

    assert worker.reported[-1] == {"type": "pairs_missed", "partition": 0, "batches": 1}


def test_marks_that_cannot_be_read_stay_a_problem_and_what_is_missed_is_said(worker: Worker) -> None:
    async def scenario() -> None:
        worker.writer.marks = failed()
        await worker.pairs.starts({0: 1450})
        await worker.pairs._write()
        assert (worker.pairs.problem or "").startswith("pairs are not counted: ")
        worker.writer.marks = {0: Mark(1200, 0, 2000)}
        await worker.pairs._take_waiting_over()
        assert worker.pairs.problem is None

    asyncio.run(scenario())

    assert worker.reported[-1] == {"type": "pairs_missed", "partition": 0, "batches": 250}


def test_an_input_that_cannot_be_counted_is_not_said_to_be(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    async def scenario() -> None:
        await worker.pairs.starts({0: 0})
        worker.take(0)
        with monkeypatch.context() as patch:
            patch.setattr(worker.pairs._counter, "count", fail)
            worker.take(1)
        worker.take(2)

    asyncio.run(scenario())

    write = worker.pairs._counter.take_write()
    assert write is not None
    found = decode_coverage(write.records[-1][1])
    assert [(span.since_offset, span.until_offset) for span in found.spans] == [(0, 1), (2, 3)]


def test_nothing_is_kept_of_what_cannot_be_counted(worker: Worker) -> None:
    async def scenario() -> None:
        worker.writer.marks = failed()
        await worker.pairs.starts({0: 0})
        for offset in range(3):
            worker.take(offset)

    asyncio.run(scenario())

    assert worker.registry.get_sample_value("kubeweir_streams_pairs_bytes") == 0


def test_counts_that_cannot_be_written_are_dropped_when_they_take_too_much_memory(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNWRITTEN_BYTES", 100)

    async def scenario() -> None:
        missed = asyncio.Event()
        worker.pairs._reports._report = lambda one: missed.set() if one["type"] == "pairs_missed" else None
        await worker.pairs.starts({0: 0})
        worker.take(0)
        worker.writer.marks = {0: Mark(0, 0, 1)}
        worker.writer.outcomes = [failed()]
        writing = asyncio.ensure_future(worker.pairs.run())
        async with asyncio.timeout(30):
            await missed.wait()
        writing.cancel()

    asyncio.run(scenario())

    assert worker.registry.get_sample_value("kubeweir_streams_pairs_missed_batches_total") == 1
    assert worker.registry.get_sample_value("kubeweir_streams_pairs_bytes") == 0


class Client:
    """A producer and a consumer of librdkafka in one: a group whose offsets anybody may have written."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.errors: list[int] = []
        self.commits = 0

    def committed(self, places: Iterable[Any], _timeout: float) -> list[Any]:
        return [
            SimpleNamespace(partition=one.partition, offset=5, metadata=self.names.get(one.partition), error=None)
            for one in places
        ]

    def get_watermark_offsets(self, _place: Any, _timeout: float) -> tuple[int, int]:
        return 0, 10

    def consumer_group_metadata(self) -> None:
        return None

    def init_transactions(self, _timeout: float) -> None:
        pass

    def begin_transaction(self) -> None:
        pass

    def send_offsets_to_transaction(self, offsets: Iterable[Any], _group: Any, _timeout: float) -> None:
        if self.errors:
            raise KafkaException(KafkaError(self.errors.pop(0)))
        self.names |= {one.partition: one.metadata for one in offsets}

    def commit_transaction(self, _timeout: float) -> None:
        self.commits += 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client()
    monkeypatch.setattr(marked_writes, "Producer", lambda *_, **__: found)
    monkeypatch.setattr(marked_writes, "make_consumer", lambda *_: found)
    return found


def test_a_fenced_writer_writes_no_more(client: Client) -> None:
    writer = MarkedWriter({}, "pairs", "raw")
    client.errors = [KafkaError._FENCED]

    for _ in range(2):
        with pytest.raises(FencedError):
            writer.write([], {0: 1})

    assert client.commits == 0


def test_a_writer_that_begins_anew_writes_nothing_where_another_has_taken_over(client: Client) -> None:
    writer = MarkedWriter({}, "pairs", "raw")
    client.names[0] = "dead"
    assert writer.take_over([0]) == {0: Mark(5, 0, 10)}
    writer.write([], {0: 6})
    client.errors = [KafkaError._TIMED_OUT]
    with pytest.raises(MarkError):
        writer.write([], {0: 7})
    writer.write([], {0: 7})  # no worker has taken it over
    client.errors = [KafkaError._TIMED_OUT]
    with pytest.raises(MarkError):
        writer.write([], {0: 8})

    client.names[0] = "another"
    with pytest.raises(FencedError):
        writer.write([], {0: 8})

    assert client.names == {0: "another"}
    assert client.commits == 2


def test_counts_stay_in_memory_when_too_many_calls_hang(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object) -> None:
        raise StopServiceError("9 calls to Kafka hang", Exit.UNEXPECTED)

    writer = MarkedWriter({}, "pairs", "raw")
    with monkeypatch.context() as patched:
        patched.setattr(marked_writes, "send_offsets", hangs)
        with pytest.raises(MarkError, match="9 calls to Kafka hang"):
            writer.write([], {0: 1})
    assert writer._producer is None, "the one whose call hangs is of no use any more"
    writer.write([], {0: 1})
    assert client.commits == 1
