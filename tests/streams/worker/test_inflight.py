"""In-flight tracking: which inputs may be acknowledged, and when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.worker.inflight import InFlightTracker, TrackedInput


class Bench:
    """A tracker whose event loop runs only when the test calls :meth:`run`."""

    def __init__(self, max_verdicts: int = 10_000, max_bytes: int = 1_000_000) -> None:
        self.acked: list[tuple[int, int]] = []
        self.failed: list[tuple[TrackedInput, Any, Any]] = []
        self.soon: list[Callable[[], None]] = []
        self.tracker = InFlightTracker(
            max_verdicts, max_bytes, self.soon.append, lambda *failed: self.failed.append(failed)
        )

    def open(self, partition: int, offset: int, records: int, verdicts: int = 1) -> TrackedInput:
        tracked = self.tracker.open(
            partition, offset, verdicts, verdicts * 88, lambda done: self.acked.append((done.partition, done.offset))
        )
        for _ in range(records):
            tracked.expect()
        tracked.close()
        return tracked

    def run(self) -> None:
        while self.soon:
            self.soon.pop(0)()


def deliver(tracked: TrackedInput, times: int = 1) -> None:
    for _ in range(times):
        tracked.on_delivery(None, object())


def test_an_input_is_acknowledged_with_its_last_record() -> None:
    bench = Bench()
    tracked = bench.open(0, 7, 3)
    deliver(tracked, 2)
    bench.run()
    assert bench.acked == []
    deliver(tracked)
    bench.run()
    assert bench.acked == [(0, 7)]
    assert (bench.tracker.verdicts, bench.tracker.bytes, len(bench.tracker)) == (0, 0, 0)


def test_a_later_input_waits_for_an_earlier_one_of_its_partition_and_for_no_other() -> None:
    bench = Bench()
    first, second, other = bench.open(0, 1, 1), bench.open(0, 2, 1), bench.open(1, 9, 1)
    deliver(second)
    deliver(other)
    bench.run()
    assert bench.acked == [(1, 9)]
    deliver(first)
    bench.run()
    assert bench.acked == [(1, 9), (0, 1), (0, 2)]


def test_an_input_without_records_is_acknowledged_when_it_is_closed() -> None:
    bench = Bench()
    bench.open(0, 1, 0)
    bench.run()
    assert bench.acked == [(0, 1)]


def test_an_open_input_is_not_acknowledged() -> None:
    bench = Bench()
    tracked = bench.tracker.open(0, 1, 1, 88, lambda done: bench.acked.append((done.partition, done.offset)))
    tracked.expect()
    deliver(tracked)
    bench.run()
    assert bench.acked == [], "more records may come"
    tracked.expect()
    tracked.close()
    deliver(tracked)
    bench.run()
    assert bench.acked == [(0, 1)]


def test_a_failed_record_is_reported_and_keeps_its_input_in_flight() -> None:
    bench = Bench()
    tracked, later = bench.open(0, 1, 2), bench.open(0, 2, 1)
    error = object()
    deliver(tracked)
    tracked.on_delivery(error, "message")
    deliver(later)
    bench.run()
    assert bench.failed == [(tracked, error, "message")]
    assert bench.acked == []
    # A dead letter takes the record's place.
    tracked.expect()
    tracked.withdraw()
    deliver(tracked)
    bench.run()
    assert bench.acked == [(0, 1), (0, 2)]


def test_inputs_of_a_revoked_partition_are_never_acknowledged() -> None:
    bench = Bench()
    gone, kept = bench.open(0, 1, 1, verdicts=5), bench.open(1, 1, 1)
    bench.tracker.forget([0])
    assert bench.tracker.verdicts == 1
    deliver(gone)
    deliver(kept)
    bench.run()
    assert bench.acked == [(1, 1)]


def test_many_deliveries_schedule_one_drain() -> None:
    bench = Bench()
    tracked = [bench.open(0, offset, 1) for offset in range(100)]
    for one in tracked:
        deliver(one)
    assert len(bench.soon) == 1
    bench.run()
    assert len(bench.acked) == 100
    deliver(bench.open(0, 100, 1))
    bench.run()
    assert len(bench.acked) == 101, "a drain can be scheduled again"


def test_acknowledgements_make_room_in_verdicts_and_in_bytes() -> None:
    async def scenario(max_verdicts: int, max_bytes: int) -> None:
        bench = Bench(max_verdicts, max_bytes)
        first = bench.open(0, 1, 1, verdicts=10)
        waiting = asyncio.create_task(bench.tracker.wait_for_room(5, 440))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        deliver(first)
        bench.run()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario(12, 1_000_000))
    asyncio.run(scenario(10_000, 900))


def test_an_input_larger_than_the_bounds_fits_alone() -> None:
    asyncio.run(asyncio.wait_for(Bench(max_verdicts=10).tracker.wait_for_room(5000, 440_000), 5))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_in_any_order_of_deliveries_each_partition_is_acknowledged_in_order(
    inputs: list[tuple[int, int]], random: Any
) -> None:
    bench = Bench()
    opened = [bench.open(partition, offset, records) for offset, (partition, records) in enumerate(inputs)]
    pending = [tracked for tracked, (_, records) in zip(opened, inputs, strict=True) for _ in range(records)]
    random.shuffle(pending)
    bench.run()
    done: dict[TrackedInput, int] = {}
    for tracked in pending:
        deliver(tracked)
        done[tracked] = done.get(tracked, 0) + 1
        bench.run()
        for partition in range(3):
            acked = [offset for where, offset in bench.acked if where == partition]
            mine = [(one, records) for one, (where, records) in zip(opened, inputs, strict=True) if where == partition]
            ready = []
            for one, records in mine:
                if done.get(one, 0) < records:
                    break
                ready.append(one.offset)
            assert acked == ready
    assert len(bench.acked) == len(inputs)


def test_deliveries_on_another_thread_are_all_counted() -> None:
    bench = Bench()
    tracked = [
        bench.tracker.open(0, offset, 1, 88, lambda d: bench.acked.append((0, d.offset))) for offset in range(500)
    ]

    def poll() -> None:
        for one in tracked:
            deliver(one, 4)

    for one in tracked:
        for _ in range(4):
            one.expect()
    thread = threading.Thread(target=poll)
    thread.start()
    for one in tracked:
        one.close()
    thread.join()
    bench.run()
    assert bench.acked == [(0, offset) for offset in range(500)]
