"""Reports of connections that are lost: each is counted once, by its number or by a total of the kernel's."""

from __future__ import annotations

from typing import Any

import msgspec

from enrich.wire.batch import Header, decode_batch
from streams.worker.checkpoint import Checkpoint, RingPosition, encode_checkpoint, newest
from streams.worker.losses import Loss, Losses
from tests.kafka.batches import make_batch, make_ends, make_rows


def header(first: int, ends_first: int, ends: int = 0, **fields: Any) -> Header:
    """The header of a batch of one verdict, and of some reports."""
    text = {"ends": make_ends(make_rows(ends))} if ends else {}
    return decode_batch(make_batch(first, 1, {"ends_first": ends_first, **text, **fields})).header


def ends_lost(losses: Losses, one: Header) -> dict[str, int]:
    found = [loss for loss in losses.detect(0, one) if isinstance(loss, Loss) and loss.kind == "ends_lost"]
    return {loss.reason: loss.verdicts for loss in found}


def test_numbers_that_are_missing_between_two_batches_are_a_gap() -> None:
    losses = Losses()
    assert ends_lost(losses, header(0, 100, 3)) == {}, "what came before is not known"
    assert ends_lost(losses, header(1, 103, 2)) == {}
    assert ends_lost(losses, header(2, 109)) == {"gap": 4}
    assert ends_lost(losses, header(3, 109, 1)) == {}


def test_what_the_probe_removed_is_counted_once_although_the_batch_is_repeated() -> None:
    losses = Losses()
    ends_lost(losses, header(0, 0, 3))
    removed = header(1, 3, 1, ends_removed={"spool_full": 5, "refused": 2})
    assert ends_lost(losses, removed) == {"spool_full": 5, "refused": 2}
    assert ends_lost(losses, removed) == {}
    assert ends_lost(losses, header(2, 11, 1)) == {}


def test_the_kernels_losses_are_counted_by_their_totals() -> None:
    losses = Losses()
    assert ends_lost(losses, header(0, 0, ends_lost={"ring_full": (2, 9)})) == {"ring_full": 2}
    assert ends_lost(losses, header(1, 0, ends_lost={"ring_full": (0, 9), "uncertain": (1, 1)})) == {"uncertain": 1}
    assert ends_lost(losses, header(3, 0, ends_lost={"ring_full": (1, 12), "uncertain": (0, 1)})) == {"ring_full": 3}
    assert ends_lost(losses, header(3, 0, ends_lost={"ring_full": (1, 12), "uncertain": (0, 1)})) == {}


def test_the_next_owner_of_a_partition_goes_on_by_the_checkpoint() -> None:
    losses = Losses()
    last = header(7, 40, 3, ends_lost={"ring_full": (2, 9)})
    losses.detect(0, last)
    next_number, totals = losses.position(0, last)
    position = RingPosition("n1", last.ring, next_number, 1, totals)
    found = newest([encode_checkpoint(Checkpoint(offset=5, complete=True, rings=[position]), 1)])
    assert found is not None
    later = Losses()
    later.take_over(0, found, is_current=True)
    assert ends_lost(later, header(8, 45, 1, ends_lost={"ring_full": (3, 12)})) == {"gap": 2, "ring_full": 3}


def test_invented_reasons_and_numbers_do_no_harm() -> None:
    losses = Losses()
    losses.detect(0, decode_batch(make_batch(0, 1, {"ends": "!", "ends_first": 0})).header)
    losses.detect(0, header(0, 0))
    top = (1 << 63) - 1
    for number in range(1, 200):
        invented = {f"r{number}": (1, top)}
        losses.detect(0, header(number, top, ends_lost=invented, ends_removed={f"q{number}": top}))
    _, totals = losses.position(0, header(200, 0))
    assert len(totals) < 64
    RingPosition("n1", "r1", 0, 0, totals)
    assert msgspec.json.decode(msgspec.json.encode(totals), type=dict[str, int]) == totals
