"""Detection of gaps and of reported losses."""

from __future__ import annotations

import msgspec

from enrich.wire.batch import VERDICT, Header
from enrich.wire.cuts import Cut, CutPart
from streams.worker.losses import Loss, Losses


def header(
    first: int,
    verdicts: int,
    lost: dict[str, tuple[int, int]] | None = None,
    kept: list[tuple[int, int]] | None = None,
    ring: str = "r",
    removed: tuple[str, int, int] | None = None,
) -> Header:
    return Header(
        v=1, cluster="c", node="n", ring=ring, first=first, verdicts=verdicts, verdict_bytes=VERDICT.itemsize, clock=0,
        lost=lost or {}, kept=kept, removed=removed or msgspec.UNSET,
    )  # fmt: skip


def cut_header(first: int, *cuts: Cut) -> Header:
    """The header of a batch of five verdicts that says what was cut."""
    return msgspec.structs.replace(header(first, 5), cut=list(cuts))


def test_a_gap_is_reported_with_its_first_number_and_consecutive_batches_have_none() -> None:
    losses = Losses()
    assert losses.detect(0, header(100, 10)) == []
    assert losses.detect(0, header(110, 5)) == []
    assert losses.detect(0, header(120, 5)) == [Loss("gap", "gap", 5, 115)]
    assert losses.detect(0, header(125, 5)) == []


def test_a_repeated_batch_causes_no_gap() -> None:
    losses = Losses()
    losses.detect(0, header(0, 10))
    losses.detect(0, header(10, 10))
    assert losses.detect(0, header(0, 10)) == []
    assert losses.detect(0, header(20, 10)) == []


def test_rings_and_partitions_do_not_mix() -> None:
    losses = Losses()
    losses.detect(0, header(0, 10))
    assert losses.detect(0, header(500, 1, ring="s")) == []
    assert losses.detect(1, header(700, 1)) == []


def test_a_batch_thinned_by_a_full_spool_ends_where_its_last_run_ends() -> None:
    losses = Losses()
    losses.detect(0, header(0, 4, kept=[(0, 1), (7, 3)]))
    assert losses.detect(0, header(10, 1)) == []


def test_numbers_that_an_older_probe_removed_are_reported_once_too() -> None:
    losses = Losses()
    losses.detect(0, header(0, 10))
    # 10 to 12 are a gap, because it does not say that they were in the batch; 14 to 16 are missing between two runs.
    thinned = header(13, 2, kept=[(13, 1), (17, 1)], lost={"spool_full": (0, 0)})
    assert losses.detect(0, thinned) == [Loss("gap", "gap", 3, 10), Loss("lost", "spool_full", 3)]
    assert losses.detect(0, header(18, 5, {"spool_full": (6, 6)})) == []


def test_removed_numbers_are_reported_once_in_any_order_of_repeats() -> None:
    losses = Losses()
    losses.detect(0, header(0, 10))
    summary = header(40, 0, removed=("spool_full", 10, 30))
    assert losses.detect(0, header(10, 5)) == []
    assert losses.detect(0, summary) == [Loss("lost", "spool_full", 25)]
    for repeated in (summary, header(10, 5), header(12, 1, kept=[(12, 1)], removed=("spool_full", 10, 5))):
        assert losses.detect(0, repeated) == []
    assert losses.detect(0, header(50, 1, removed=("refused", 45, 6))) == [
        Loss("gap", "gap", 5, 40),
        Loss("lost", "refused", 5),
    ]


def test_a_batch_that_claims_all_numbers_is_reported_as_a_loss_of_all() -> None:
    losses = Losses()
    losses.detect(0, header(0, 10))
    most = (1 << 63) - 1
    assert losses.detect(0, header(10, 1, removed=("spool_full", 5, most - 5))) == [
        Loss("lost", "spool_full", most - 11)
    ]
    assert losses.detect(0, header(11, 1)) == []


def test_losses_reported_by_a_repeated_batch_count_once() -> None:
    losses = Losses()
    assert losses.detect(0, header(0, 1, {"ring_full": (5, 5)})) == [Loss("lost", "ring_full", 5)]
    assert losses.detect(0, header(1, 1, {"ring_full": (2, 7)})) == [Loss("lost", "ring_full", 2)]
    assert losses.detect(0, header(1, 1, {"ring_full": (2, 7)})) == []
    assert losses.detect(0, header(2, 1, {"ring_full": (0, 7)})) == []


def test_losses_reported_by_a_missing_batch_are_in_the_next_total() -> None:
    losses = Losses()
    losses.detect(0, header(0, 1, {"ring_full": (0, 10)}))
    assert Loss("lost", "ring_full", 9) in losses.detect(0, header(5, 1, {"ring_full": (1, 19)}))


def test_totals_may_start_again_from_zero() -> None:
    losses = Losses()
    losses.detect(0, header(0, 1, {"ring_full": (0, 10)}))
    assert losses.detect(0, header(1, 1, {"ring_full": (3, 3)})) == [Loss("lost", "ring_full", 3)]
    assert losses.detect(0, header(2, 1, {"ring_full": (1, 4)})) == [Loss("lost", "ring_full", 1)]


def test_what_others_read_of_a_revoked_partition_is_not_a_gap() -> None:
    losses = Losses()
    losses.detect(3, header(0, 1))
    losses.forget([3])
    assert losses.detect(3, header(900, 1)) == []


def test_what_was_cut_is_reported_once_whether_batches_are_repeated_or_missing() -> None:
    losses, part = Losses(), CutPart("shop", "allow", 7)
    first = cut_header(0, Cut("limit", "allowed", 7, 7, 1000, [part]))
    assert losses.detect(0, first) == [Cut("limit", "allowed", 7, 7, 1000, [part])]
    assert losses.detect(0, first) == []
    assert losses.detect(0, cut_header(5, Cut("limit", "allowed", 0, 7))) == []
    # Whose verdicts a header has counted that did not arrive is not known.
    second = Cut("limit", "allowed", 2, 12, 1000, [CutPart("shop", "allow", 2)])
    assert losses.detect(0, cut_header(10, second, Cut("logging", "denied", 4, 4))) == [
        Cut("limit", "allowed", 5, 12), Cut("logging", "denied", 4, 4)
    ]  # fmt: skip
    assert losses.detect(0, cut_header(10, second)) == []


def test_a_cut_of_a_kind_that_is_not_known_is_skipped_and_two_of_one_kind_are_added() -> None:
    losses = Losses()
    found = losses.detect(0, cut_header(0, Cut("mood", "denied", 7, 7), *[Cut("limit", "denied", 3, 3)] * 2))
    assert found == [Cut("limit", "denied", 6, 3)]
    assert losses.position(0, header(0, 5))[1] == {"cut_limit_denied": 3}
