"""Checkpoints: what the next owner of a partition learns from them (``streams.worker.checkpoint``)."""

from __future__ import annotations

import asyncio

import pytest

from enrich.wire.cuts import Cut
from streams.worker.checkpoint import MAX_BYTES, Checkpoint, RingPosition, encode_checkpoint, newest
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.losses import Loss, Losses
from streams.worker.ring_positions import RingPositions
from tests.streams.worker.test_losses import cut_header, header


def checkpoint(next_number: int = 10, offset: int = 5, *, complete: bool = True) -> Checkpoint:
    return Checkpoint(offset=offset, complete=complete, rings=[RingPosition("n", "r", next_number, 100, {"full": 7})])


def after(taken_over: Checkpoint, first: int, ring: str = "r", *, is_current: bool = True) -> list[Loss | Cut]:
    """Return what the first batch shows to be lost after a partition was taken over."""
    losses = Losses()
    losses.take_over(0, taken_over, is_current=is_current)
    found = losses.detect(0, header(first, 5, ring=ring))
    assert losses.detect(0, header(first + 5, 5, ring=ring)) == []
    return found


def test_what_is_missing_after_a_checkpoint_is_a_gap_and_repeats_and_new_rings_are_none() -> None:
    assert after(checkpoint(10), 25) == [Loss("gap", "gap", 15, 10)]
    assert after(checkpoint(10), 10) == []
    assert after(checkpoint(10), 0) == []
    assert after(checkpoint(10), 0, "s") == []


def test_losses_that_the_former_owner_has_reported_are_not_reported_again() -> None:
    losses = Losses()
    losses.take_over(0, checkpoint(10), is_current=True)
    assert losses.detect(0, header(10, 5, {"full": (7, 7)})) == []
    assert losses.detect(0, header(15, 5, {"full": (0, 9)})) == [Loss("lost", "full", 2)]


def test_cuts_that_the_former_owner_has_reported_are_not_reported_again() -> None:
    before, after, positions = Losses(), Losses(), RingPositions()
    first = cut_header(10, Cut("limit", "allowed", 7, 7))
    before.detect(0, first)
    positions.take_over(0, None, is_first=True)
    tracked = InFlightTracker(10, 10, lambda step: step(), lambda *_: None).open(0, 0, 1, 1, lambda _: None)
    positions.note(tracked, first, *before.position(0, first))
    positions.finish(tracked)
    found = newest([positions.encode(0, 1) or b""])
    assert found is not None
    after.take_over(0, found, is_current=True)
    assert after.detect(0, first) == []
    assert after.detect(0, cut_header(15, Cut("limit", "allowed", 0, 9))) == [Cut("limit", "allowed", 2, 9)]


def test_what_may_have_been_finished_without_a_checkpoint_is_an_unknown_gap_once() -> None:
    assert after(checkpoint(10), 25, is_current=False) == [Loss("gap_unknown", "old_checkpoint", 15, 10)]
    assert after(checkpoint(10), 10, is_current=False) == []


def test_a_ring_whose_beginning_was_never_seen_is_an_unknown_gap_if_all_rings_were_noted() -> None:
    assert after(checkpoint(), 25, "s") == [Loss("gap_unknown", "ring_not_seen", 25, 0)]
    assert after(checkpoint(complete=False), 25, "s") == []
    assert after(checkpoint(), 25, "s", is_current=False) == []


def encoded(one: Checkpoint) -> bytes:
    return encode_checkpoint(one, 300)


def test_the_highest_numbers_of_the_last_checkpoints_count() -> None:
    found = newest([encoded(checkpoint(20, 9)), b"{}", b"\xff", b'{"v":2}', encoded(checkpoint())])
    assert found == checkpoint(20, 9)
    assert newest([b"junk"]) is None


@pytest.mark.parametrize(
    "ring", ['["n","r",-1,1,{}]', '["n","",1,1,{}]', '["","r",1,1,{}]', '["n","r",1,1,{"Bad":1}]', '["n","r",1.5,1,{}]']
)
def test_what_no_worker_writes_is_not_taken(ring: str) -> None:
    value = '{"v":1,"offset":5,"complete":true,"rings":[%s]}'
    assert newest([(value % '["n","r",1,1,{}]').encode()]) is not None
    assert newest([(value % ring).encode()]) is None


def test_rings_that_do_not_fit_are_left_out_those_seen_first_before_others() -> None:
    rings = [RingPosition("n" * 250, f"r{number}", number, 100) for number in range(10_000)]
    value = encode_checkpoint(Checkpoint(offset=1, complete=True, rings=rings), 300)
    assert len(value) <= MAX_BYTES
    found = newest([value])
    assert found is not None
    assert (found.complete, found.incomplete_since) == (False, 300)
    assert found.rings[-1] == rings[-1]
    assert len(found.rings) > 1000


def test_a_partitions_share_of_rings_is_remembered_those_seen_last() -> None:
    positions = RingPositions(lambda: 100.0, max_rings=4)
    tracker = InFlightTracker(10, 10, lambda step: step(), lambda *_: None)
    for partition in (0, 1):
        positions.take_over(partition, None, is_first=True)
    for number in range(5):
        tracked = tracker.open(0, number, 1, 1, lambda _: None)
        positions.note(tracked, header(0, 1, ring=f"r{number}"), 1, {})
        positions.finish(tracked)
    assert noted(positions) == {"r3": 1, "r4": 1}

    assert taken_over(positions).incomplete_since == 100


def taken_over(positions: RingPositions) -> Checkpoint:
    """Return what the next owner of partition 0 takes over."""
    found = newest([positions.encode(0, 6) or b""])
    assert found is not None
    return found


WEEK = 7 * 86_400


@pytest.mark.parametrize(
    ("since", "known"),
    [(1_000_000, 1_000_000), (0, 2_000_000), (9_000_000, 2_000_000)],
    ids=["noted", "by an earlier version", "in the future"],
)
def test_a_checkpoint_is_complete_again_a_week_after_a_ring_was_left_out(since: int, known: int) -> None:
    now = 2_000_000.0
    positions = RingPositions(lambda: now)
    positions.take_over(0, Checkpoint(offset=5, complete=False, incomplete_since=since, rings=[]), is_first=False)
    now = known + WEEK
    assert after(taken_over(positions), 25, "s") == []
    now += 1
    assert after(taken_over(positions), 25, "s") == [Loss("gap_unknown", "ring_not_seen", 25, 0)]


def test_a_partition_without_a_checkpoint_has_a_complete_one_after_a_week() -> None:
    now = 2_000_000.0
    positions = RingPositions(lambda: now)
    positions.take_over(0, None, is_first=False)
    assert not taken_over(positions).complete
    now += WEEK + 1
    assert taken_over(positions).complete


def test_checkpoints_together_are_incomplete_since_the_last_of_them_if_all_say_since_when() -> None:
    def together(*since: int) -> tuple[bool, int]:
        values = [Checkpoint(offset=5, complete=False, incomplete_since=one, rings=[]) for one in since]
        found = newest([encoded(one) for one in (*values, checkpoint())])
        assert found is not None
        return found.complete, found.incomplete_since

    assert together() == (True, 0)
    assert together(100, 200) == (False, 200)
    assert together(100, 0) == (False, 0)


def noted(positions: RingPositions, partition: int = 0, offset: int = 6) -> dict[str, int]:
    value = positions.encode(partition, offset)
    found = newest([value] if value else [])
    return {one.ring: one.next_number for one in found.rings} if found else {}


def test_a_batch_counts_as_finished_when_it_is_acknowledged() -> None:
    async def scenario() -> None:
        tracker = InFlightTracker(10, 10, asyncio.get_running_loop().call_soon_threadsafe, lambda *_: None)
        first, second = (tracker.open(0, offset, 1, 1, lambda _: None) for offset in (5, 6))
        positions = RingPositions(lambda: 200.0)
        assert positions.encode(0, 6) is None, "nothing may be written before the former owner's is read"
        positions.take_over(0, checkpoint(10), is_first=False)
        positions.note(first, header(10, 5), 15, {})
        positions.note(second, header(0, 3, ring="s"), 3, {})
        assert noted(positions) == {"r": 10}
        positions.finish(first)
        assert noted(positions) == {"r": 15}
        positions.forget([0])
        positions.take_over(0, None, is_first=True)
        positions.finish(second)
        assert noted(positions) == {}, "the input was of the time before the partition was revoked"

    asyncio.run(scenario())


def test_rings_without_a_batch_for_a_week_are_forgotten() -> None:
    now = 1_000_000.0
    positions = RingPositions(lambda: now)
    positions.take_over(0, checkpoint(10), is_first=False)
    assert noted(positions) == {}
    now = 200.0
    positions.take_over(0, checkpoint(10), is_first=False)
    assert noted(positions) == {"r": 10}


def test_an_input_that_is_acknowledged_after_its_partition_was_revoked_changes_nothing() -> None:
    positions = RingPositions()
    tracker = InFlightTracker(10, 10, lambda step: step(), lambda *_: None)
    tracked: TrackedInput = tracker.open(3, 0, 1, 1, lambda _: None)
    positions.note(tracked, header(0, 1), 1, {})
    positions.finish(tracked)
    assert positions.encode(3, 1) is None
