"""What a worker counts of each ring adds up for the numbers that are finished, at whichever stage some are lost."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from enrich.wire.batch import Header
from enrich.wire.in_force import PoliciesInForce
from enrich.wire.tally import KernelTally, Tally
from streams.worker.checkpoint import Finished, newest
from streams.worker.inflight import InFlightTracker
from streams.worker.losses import Losses
from streams.worker.ring_positions import RingPositions
from tests.streams.worker.test_losses import header

RING = ("n", "r")


class Worker:
    """What a worker does with the batches of partition 0, without its records."""

    def __init__(self, taken_over: bytes | None = None, *, is_current: bool = True) -> None:
        self.losses, self.positions = Losses(), RingPositions(lambda: 100.0)
        self.tracker = InFlightTracker(1 << 40, 1 << 40, lambda step: step(), lambda *_: None)
        found = newest([taken_over]) if taken_over else None
        self.positions.take_over(0, found, is_first=found is None)
        if found is not None:
            self.losses.take_over(0, found, is_current=is_current)

    def take(self, batch: Header, *, refused: int = 0, dead: int = 0, unlogged: int = 0, lost: int = 0) -> Any:
        """Take a batch; of its records so many have another end than to be written. Return the status record."""
        tracked = self.tracker.open(0, 0, batch.verdicts, 1, lambda _: None)
        before = self.losses.next_number(0, batch)
        losses = self.losses.detect(0, batch)
        self.positions.note(tracked, batch, *self.losses.position(0, batch), before, losses)
        tracked.enriched = batch.verdicts - dead
        tracked.dead, tracked.refused, tracked.unlogged = dead, refused, unlogged
        tracked.written = tracked.enriched - refused - unlogged - lost
        return self.positions.finish(tracked)

    def checkpoint(self) -> bytes:
        return self.positions.encode(0, 1) or b""

    def counts(self) -> tuple[int, Finished]:
        """The number that the ring has next, and its counts."""
        found = newest([self.checkpoint()])
        assert found is not None
        one = next(one for one in found.rings if (one.node, one.ring) == RING)
        assert one.finished is not None
        return one.next_number, one.finished


def holds(next_number: int, counts: Finished) -> bool:
    """Whether every number below ``next_number`` has one end."""
    return (
        next_number - counts.begin == counts.read + sum(counts.missing.values())
        and counts.read == counts.enriched + counts.dead
        and counts.enriched == counts.written + counts.unlogged + counts.refused
    )


def test_each_end_of_a_verdict_is_a_term_of_its_own() -> None:
    worker = Worker()
    worker.take(header(0, 100))
    worker.take(header(100, 50), refused=2, unlogged=7)
    worker.take(header(150, 50), dead=50)
    worker.take(header(250, 10))
    worker.take(header(265, 3, kept=[(265, 3)], removed=("spool_full", 260, 20)))
    worker.take(header(280, 0, removed=("strange", 280, 5)))
    next_number, counts = worker.counts()
    assert next_number == 285
    assert counts == Finished(begin=0, read=213, enriched=163, written=154, unlogged=7, dead=50, refused=2,
                              missing={"gap": 50, "spool_full": 17, "other": 5})  # fmt: skip
    assert holds(next_number, counts)


def test_a_record_that_kafka_has_not_acknowledged_is_missing_from_the_sum() -> None:
    worker = Worker()
    worker.take(header(0, 100), lost=1)
    assert not holds(*worker.counts())


def test_repeats_count_nothing_and_half_a_repeat_its_new_half() -> None:
    worker = Worker()
    for batch in (header(0, 100), header(100, 100), header(0, 100), header(150, 100), header(100, 100)):
        worker.take(batch)
    next_number, counts = worker.counts()
    assert (next_number, counts.read, counts.written) == (250, 250, 250)
    assert holds(next_number, counts)


@pytest.mark.parametrize("ends", [{"dead": 100}, {"dead": 60}, {"refused": 90}, {"unlogged": 70, "refused": 20}, {}])
def test_half_a_repeat_adds_up_whatever_became_of_it(ends: dict[str, int]) -> None:
    worker = Worker()
    worker.take(header(0, 100))
    worker.take(header(50, 100), **ends)
    next_number, counts = worker.counts()
    assert (next_number, counts.read) == (150, 150)
    assert holds(next_number, counts)
    worker.take(header(100, 100), lost=1)
    assert not holds(*worker.counts())


def test_the_next_owner_goes_on_counting_after_a_kill_a_handover_and_a_gap_between_them() -> None:
    first = Worker()
    first.take(header(0, 100))
    kept = first.checkpoint()
    first.take(header(100, 100))
    second = Worker(kept)
    second.take(header(100, 100))
    second.take(header(200, 100), refused=1)
    third = Worker(second.checkpoint())
    third.take(header(200, 100))
    third.take(header(330, 10))
    next_number, counts = third.counts()
    assert counts == Finished(begin=0, read=310, enriched=310, written=309, refused=1, missing={"gap": 30})
    assert holds(next_number, counts)


def test_what_may_have_been_finished_elsewhere_is_a_term_of_its_own() -> None:
    first = Worker()
    first.take(header(0, 100))
    second = Worker(first.checkpoint(), is_current=False)
    second.take(header(140, 10))
    next_number, counts = second.counts()
    assert counts.missing == {"gap_unknown": 40}
    assert holds(next_number, counts)


def test_a_repeat_counts_nothing_although_more_may_have_been_finished_elsewhere() -> None:
    first = Worker()
    first.take(header(0, 100))
    second = Worker(first.checkpoint(), is_current=False)
    second.take(header(50, 20))
    second.take(header(90, 30))
    next_number, counts = second.counts()
    assert counts == Finished(begin=0, read=120, enriched=120, written=120)
    assert holds(next_number, counts)


def test_a_ring_that_an_earlier_version_has_counted_begins_where_it_ended() -> None:
    old = b'{"v":1,"offset":5,"complete":true,"rings":[["n","r",500,100,{}]]}'
    worker = Worker(old)
    worker.take(header(500, 10))
    next_number, counts = worker.counts()
    assert (counts.begin, counts.read) == (500, 10)
    assert holds(next_number, counts)


def test_numbers_that_retention_removed_are_no_gap_and_a_later_gap_is_one() -> None:
    worker = Worker()
    worker.take(header(0, 10))
    worker.positions.note_expired(0)
    worker.take(header(30, 10))
    worker.take(header(45, 10))
    assert worker.counts()[1].missing == {"expired": 20, "gap": 5}


def test_a_tally_is_published_when_its_batch_is_finished_with_the_counts_up_to_there() -> None:
    kernel = KernelTally(decided=(10, 10), written=10, waiting=0, ring=(110, 110), verdicts=110)
    in_force = PoliciesInForce(change=1, epoch=2, policies=())
    tally = Tally(at=1, every=10, kernel=kernel, in_force=(in_force,))
    worker = Worker()
    assert worker.take(header(0, 100)) is None
    status = worker.take(msgspec.structs.replace(header(100, 10), tally=tally))
    assert status == {
        "type": "tally", "cluster": "c", "node": "n", "ring": "r", "next": 110,
        "finished": {"begin": 0, "read": 110, "enriched": 110, "written": 110, "unlogged": 0, "dead": 0, "refused": 0,
                     "missing": {}},
        # Another record says which policies are in force.
        "tally": {name: value for name, value in msgspec.to_builtins(tally).items() if name != "in_force"},
    }  # fmt: skip
    worker.take(header(110, 5))
    assert worker.take(msgspec.structs.replace(header(100, 10), tally=tally)) is None, "it was read again"
    worker.positions.forget([0])
    assert worker.take(msgspec.structs.replace(header(115, 10), tally=tally)) is None, "it was revoked"


def test_counts_that_a_hostile_checkpoint_makes_up_leave_one_that_can_be_read() -> None:
    most = (1 << 63) - 1
    counts = ",".join([str(most)] * 6)
    made_up = f'{{"v":1,"offset":5,"complete":true,"rings":[["n","r",5,100,{{}},[0,{counts},{{"gap":{most}}}]]]}}'
    worker = Worker(made_up.encode())
    worker.take(header(10, 5), refused=1)
    assert worker.counts()[1].read == most


@pytest.mark.parametrize("first", [(1 << 63) - 2, 1 << 62])
def test_numbers_that_a_hostile_batch_makes_up_leave_a_checkpoint_that_can_be_read(first: int) -> None:
    worker = Worker()
    worker.take(header(0, 1))
    for _ in range(3):
        worker.take(header(first, 0))
    assert newest([worker.checkpoint()]) is not None
