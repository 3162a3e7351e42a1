"""Counts pairs beside the flows: takes partitions over, writes counts and marks, and never holds the flows up.

THEORY OF OPERATION

:mod:`streams.worker.pair_counter` counts in memory. Every ``WEIR_PAIRS_FLUSH`` seconds, what has changed is written
together with a mark for each partition: "partition 3 is counted up to offset 1200". The offsets of the group are
committed every second, so of a worker that is killed the mark is mostly behind. An example:

1. Worker A has written the mark 1200 of partition 3, and its group has committed 1450. A is killed.
2. Worker B gets partition 3. It fences A, reads the mark 1200, and lets Faust read from 1200 instead of 1450.
3. Inputs 1200 to 1449 are only counted: their records are on Kafka already. From 1450 on, inputs are enriched and
   counted as always.

If B is killed before the commit but after the write, the mark is ahead of the commit. Then C enriches these inputs once
more, and does not count them.

If writing to the topic of pairs fails, the flows go on all the same. Counts stay in memory until they can be written.
Inputs that are surely not counted are reported, by a metric and by a record ``pairs_missed`` on the status topic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog

from enrich.render.enricher import Records
from streams.kafka.marked_writes import FencedError, MarkedWriter, MarkError
from streams.metrics.pairs import PairMetrics
from streams.settings import Settings
from streams.worker.inflight import TrackedInput
from streams.worker.pair_counter import MAX_BYTES, PairCounter, starts_of
from streams.worker.pair_reports import PairReports

log = structlog.get_logger("kubeweir.streams")

MAX_REPLAYED: Final = 20_000
"""Limit of inputs of a partition that are read once more to count them. Flows wait meanwhile."""
_TAKEOVER_S: Final = 6.0
"""How long a rebalance waits for the marks."""
_RELEASE_S: Final = 5.0
_WRITE_S: Final = 60.0
_TICK_S: Final = 0.2
_ASK_S: Final = 20.0
"""How often Kafka is asked where the partitions of the raw topic end."""
MAX_UNWRITTEN_BYTES: Final = 2 * MAX_BYTES
"""If counts that cannot be written take more memory, they are dropped."""


class Pairs:
    """The counting of one worker, on its event loop."""

    def __init__(
        self,
        settings: Settings,
        metrics: PairMetrics,
        report: Callable[[dict[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """``report`` sends a record to the status topic."""
        self._settings, self._metrics, self._now = settings, metrics, now
        self._reports = PairReports(metrics, report)
        on_failed = self._reports.on_uncounted
        self._counter = PairCounter(settings.pairs_limit, metrics, now, settings.cluster, on_failed)
        metrics.bytes.set_function(lambda: self._counter.memory)
        metrics.behind.set_function(self._counter.spans.behind_s)
        self._writer = self._new_writer()
        # Not those of the event loop: what a Kafka that stands still keeps busy here, flows would wait for.
        self._threads = ThreadPoolExecutor(4, "pairs")
        self._turn = asyncio.Lock()
        """Held while the writer is at work, in a thread."""
        self._replayed_until: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        """For each partition of this worker, the offset after the last input taken, or from which on it is read."""
        self._waiting: set[int] = set()
        """Partitions whose marks could not be read yet."""
        self._committed_since_fence = True
        self._queried_at = float("-inf")

    @property
    def problem(self) -> str | None:
        """Why pairs are not counted, or counts not written, if so."""
        return self._reports.problem

    # --- inputs

    def is_replayed(self, tracked: TrackedInput) -> bool:
        """Return whether an input is read to count it only, because its records are on Kafka already."""
        return tracked.offset < self._replayed_until.get(tracked.partition, 0)

    def take(self, inputs: Sequence[TrackedInput]) -> None:
        """Note inputs that are about to be enriched."""
        for tracked in inputs:
            self._seen[tracked.partition] = tracked.offset + 1

    def count(self, inputs: Sequence[TrackedInput], records: Records) -> None:
        """Count the records of some inputs."""
        try:
            if records.columns is not None:
                self._counter.count(inputs, records.columns)
        except Exception as error:
            for tracked in inputs:
                tracked.uncounted = True
            self._reports.on_uncounted(len(records.values), error)

    def finish(self, tracked: TrackedInput) -> None:
        """Add what was counted of an input that is acknowledged."""
        try:
            self._counter.finish(tracked)
        except Exception as error:
            self._on_bug(error)

    def on_commit(self) -> None:
        """Note that Kafka has accepted a commit: this worker is a member of its group."""
        self._committed_since_fence = True

    # --- partitions

    async def starts(self, committed: Mapping[int, int | None]) -> dict[int, int]:
        """Take partitions over, before anything of them is read. ``committed`` has the offset from which on each is
        read. Return those that are to be read from an earlier one."""
        new = {partition: offset for partition, offset in committed.items() if not self._counter.counts(partition)}
        self._replayed_until = {p: until for p, until in self._replayed_until.items() if p not in new}
        if not new:
            return {}
        self._seen |= {partition: offset or 0 for partition, offset in new.items()}
        marks = await self._take_over(new.keys(), _TAKEOVER_S)
        if marks is None:
            self._waiting |= new.keys()
            self._counter.spans.wait(new)
            return {}
        earlier = {}
        for partition, (since, missed) in starts_of(marks, new, MAX_REPLAYED).items():
            self._begin(partition, since, missed)
            if (read_from := new[partition]) is not None and since < read_from:
                earlier[partition] = self._seen[partition] = since
                self._replayed_until[partition] = read_from
        self._waiting -= new.keys()
        # From now on, a worker that takes these partitions over fences this one first.
        await self._write(patience_s=_TAKEOVER_S)
        if earlier:
            log.info("counting pairs of inputs that were enriched already", partitions=sorted(earlier))
        return earlier

    async def release(self, partitions: Collection[int]) -> None:
        """Write what is counted, and leave partitions to their next owner."""
        own = {partition for partition in partitions if self._counter.counts(partition)}
        is_written = not own or await self._write(own, _RELEASE_S)
        self._counter.forget(partitions)
        for partition in partitions:
            self._waiting.discard(partition)
            self._seen.pop(partition, None)
            self._replayed_until.pop(partition, None)
        if not is_written:
            # The next owner counts what was not written, so this worker must not write it later.
            self._begin_again()

    async def release_all(self) -> None:
        """Write what is counted, and leave all partitions: the worker ends."""
        await self.release([*self._seen, *self._counter.partitions])

    async def run(self) -> None:
        """Write what has changed, again and again."""
        wait_s = self._settings.pairs_flush
        due = time.monotonic() + wait_s
        while True:
            await asyncio.sleep(_TICK_S)
            if time.monotonic() < due:
                continue
            if self._waiting and self._committed_since_fence:
                await self._take_waiting_over()
            if not await self._write() and self._counter.memory > MAX_UNWRITTEN_BYTES:
                log.error("counts of pairs that cannot be written take too much memory; they are dropped")
                self._drop()
            due = time.monotonic() + max(wait_s, self._reports.backoff_s)

    # --- inside

    def _new_writer(self) -> MarkedWriter:
        connection, group = self._settings.connection(), self._settings.group("pairs")
        return MarkedWriter(connection, group, self._settings.topics.raw.name)

    def _begin(self, partition: int, since: int, missed: int) -> None:
        self._counter.begin(partition, since)
        self._reports.on_missed(partition, missed)

    def _begin_again(self) -> None:
        """Drop what is not written. The old writer may still be at work, but its result is ignored."""
        self._metrics.restarts.inc()
        self._counter.abandon()
        # librdkafka may take a while to end its clients, and the event loop must not wait for it.
        self._in_thread(self._writer.close)
        self._writer = self._new_writer()
        self._turn = asyncio.Lock()

    async def _take_waiting_over(self) -> None:
        waiting = set(self._waiting)
        if (marks := await self._take_over(waiting, _WRITE_S)) is None:
            return
        # Inputs were enriched meanwhile, and are not counted.
        taken = {partition: self._seen.get(partition, 0) for partition in waiting & self._waiting}
        for partition, (since, missed) in starts_of(marks, taken, 0).items():
            self._begin(partition, since, missed)
        self._waiting -= taken.keys()

    async def _take_over(self, partitions: Collection[int], patience_s: float) -> Mapping[int, Any] | None:
        """Return the marks of partitions; None if they cannot be read now."""
        writer, needed = self._writer, list(partitions)
        found = await self._at_work(lambda: self._in_thread(writer.take_over, needed), patience_s)
        return found if isinstance(found, dict) else None

    async def _write(self, released: Collection[int] = (), patience_s: float = _WRITE_S) -> bool:
        """Write what has changed. Return whether everything is written."""
        writer, topic = self._writer, self._settings.topics.pairs.name

        async def write() -> bool:
            await self._ask_for_ends(writer, patience_s)
            # The outcome is noted before the next write begins, because the marks of that one cover these counts, too.
            taken = self._counter.take_write(released)
            if taken is None:
                return False
            records = [(topic, key, value) for key, value in taken.records]
            try:
                await self._in_thread(writer.write, records, taken.marks, released)
            except Exception:
                if writer is self._writer:
                    self._counter.not_written(taken)
                raise
            if writer is self._writer:
                self._counter.written(taken)
            return True

        return await self._at_work(write, patience_s) is not None

    async def _ask_for_ends(self, writer: MarkedWriter, patience_s: float) -> None:
        """Ask Kafka where partitions end, to tell readers up to when everything is counted. A rebalance never waits."""
        if patience_s < _WRITE_S or time.monotonic() - self._queried_at < _ASK_S:
            return
        self._queried_at, queried_at = time.monotonic(), self._now()
        try:
            ends = await self._in_thread(writer.ends)
        except MarkError as error:
            log.warning("the ends of the raw topic cannot be read", error=str(error))
        else:
            self._counter.spans.note_ends(queried_at, ends)

    def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _at_work(self, work: Callable[[], Awaitable[Any]], patience_s: float) -> Any:
        """Work with the writer when it is free. Return the result, None if it failed, or takes too long."""
        turn, writer, is_awaited = self._turn, self._writer, True

        async def take_turn() -> Any:
            async with turn:
                # A write that begins after the caller has given up would write what the caller has left to others.
                return await work() if is_awaited and writer is self._writer else None

        task = asyncio.ensure_future(take_turn())
        try:
            found = await asyncio.wait_for(asyncio.shield(task), patience_s)
        except FencedError as error:
            self._on_fenced(str(error))
        except MarkError as error:
            self._on_problem(str(error))
        except TimeoutError:
            is_awaited = False
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._on_problem("Kafka does not answer")
        except Exception as error:
            self._on_bug(error)
        else:
            if found:
                self._reports.on_success()
            return found
        return None

    def _on_fenced(self, error: str) -> None:
        """Begin again: another worker has taken over what this one had, or a part of it."""
        log.warning("another worker has taken partitions over; counting pairs anew", error=error)
        self._committed_since_fence = False
        self._drop()

    def _on_bug(self, error: Exception) -> None:
        """Begin again, because it is not known what is counted. This costs counts, and must not cost records."""
        log.error("pairs could not be counted or written; counting them anew", exc_info=error)
        self._on_problem(f"{type(error).__name__}: {error}")
        self._drop()

    def _drop(self) -> None:
        """Drop what is not written. The marks will say how much that was when the partitions are taken over again."""
        self._waiting |= set(self._counter.partitions)
        self._begin_again()

    def _on_problem(self, problem: str) -> None:
        self._reports.on_problem(problem, is_counting=bool(self._counter.partitions))
