"""Reports of connections on their way from the ring to the spool: none is lost by a kill, none changes the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from enrich.wire.batch import VERDICT, BatchError, decode_batch, encode_batch
from enrich.wire.ends import END_BYTES, MAX_ENDS, MAX_TEXT, How, count_ends, decode_ends, encode_ends, end_dtype
from probe.export.batcher import Batcher, Limits
from probe.export.collected_ends import MAX_IN_BATCH, CollectedEnds
from probe.export.drain import Drain
from probe.export.segment import SpooledBatch, without_allows, without_verdicts
from probe.export.spool import Spool
from probe.export.summary import RefusedNumbers
from probe.kernel.ends_layout import END
from tests.kafka.batches import make_batch, make_ends, make_rows
from tests.probe.export.test_drain import LIMITS, NoReferences, Ring


class EndsRing:
    """Stands in for the ring of reports; what is released stays released, as in the kernel."""

    def __init__(self, count: int) -> None:
        self.ends: Any = np.zeros(count, END)
        self.ends["verdict"] = make_rows(count)
        self.ends["number"], self.ends["how"] = np.arange(count), How.CLOSED
        self.consumer_number = self.next_number = 0
        self.releases: list[int] = []

    @property
    def producer_number(self) -> int:
        return len(self.ends)

    def read_entries(self, most: int) -> tuple[int, Any]:
        first, found = self.next_number, self.ends[self.next_number : self.next_number + most]
        self.next_number += len(found)
        return first, found

    def release(self, up_to_number: int) -> None:
        self.releases.append(up_to_number)
        self.consumer_number = max(self.consumer_number, up_to_number)


def drained(ring: Ring, ends: EndsRing, spool: Spool) -> None:
    ends.next_number = ends.consumer_number
    ring.ends = ends
    draining = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    draining.start("c1", "n1")
    draining.stop()
    assert not draining.failed.is_set()


def sent(spool: Spool) -> list[Any]:
    found = []
    while (unsent := spool.next(0)) is not None:
        found.append(decode_batch(unsent.value))
    return found


def test_all_are_in_batches_in_their_order_and_released_behind_the_spool(tmp_path: Path) -> None:
    spool, ends = Spool(tmp_path), EndsRing(2 * MAX_IN_BATCH + 7)
    drained(Ring(make_rows(25)), ends, spool)
    batches = sent(spool)
    numbers = np.concatenate([batch.ends["number"] for batch in batches if batch.ends is not None])
    assert numbers.tolist() == list(range(2 * MAX_IN_BATCH + 7))
    assert ends.consumer_number == 2 * MAX_IN_BATCH + 7
    verdicts = [number for batch in batches for number in batch.numbers().tolist()]
    assert verdicts == list(range(25)), "the numbers of verdicts are the same"


def test_what_is_in_no_batch_yet_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends, ring = EndsRing(5), Ring(make_rows(25))
    released: list[int] = []
    spool = Spool(tmp_path)
    append = Spool.append

    def noting(self: Spool, value: bytes, header: Any) -> None:
        released.append(ends.consumer_number)
        append(self, value, header)

    monkeypatch.setattr(Spool, "append", noting)
    drained(ring, ends, spool)
    assert released[0] == 0, "the spool has it first"
    assert ends.consumer_number == 5


def test_pods_that_make_reports_all_the_time_do_not_keep_the_probe_from_stopping(tmp_path: Path) -> None:
    class Busy(EndsRing):
        def read_entries(self, most: int) -> tuple[int, Any]:
            assert len(self.ends) < 100, "it never ends"
            found = super().read_entries(most)
            self.ends = np.concatenate([self.ends, self.ends[:1]])
            return found

    ends = Busy(5)
    drained(Ring(make_rows(3)), ends, Spool(tmp_path))
    assert 5 <= ends.consumer_number < 20
    assert ends.consumer_number == ends.next_number, "the next start reads the others"


def test_a_flood_of_verdicts_leaves_room_for_reports() -> None:
    ends = EndsRing(3 * MAX_IN_BATCH)
    batcher = Batcher(("c1", "n1", "r1"), NoReferences(), dict, {}, Limits(verdicts=10))
    batcher.ends = CollectedEnds(ends)  # type: ignore[arg-type]
    batcher.add(0, make_rows(40))
    taken = [decode_batch(one.value).ends for one in batcher.take()]
    assert [0 if one is None else len(one) for one in taken] == [MAX_IN_BATCH] * 3 + [0]


def test_the_reports_of_another_version_have_its_verdicts() -> None:
    """A later version may have longer verdicts, and its ring is read after a rollback."""
    ring = EndsRing(2)
    later = np.zeros(2, end_dtype(np.dtype([*VERDICT.descr, ("more", "<u8")])))
    for name in ("number", "how"):
        later[name] = ring.ends[name]
    for name in VERDICT.names or ():
        later["verdict"][name] = ring.ends["verdict"][name]
    expected, ring.ends = ring.ends, later
    collected = CollectedEnds(ring)  # type: ignore[arg-type]
    collected.fill(collected.end)
    assert collected.waiting.dtype == END
    assert collected.waiting.tobytes() == expected.tobytes()


def test_reports_do_not_outlive_denials_in_a_full_spool() -> None:
    report = make_ends(make_rows(3))
    for stored in (make_batch(7, 0, {"ends": report}), make_batch(7, 2, {"ends": report}, denied=True)):
        before, after = decode_batch(stored), decode_batch(without_allows(SpooledBatch(stored)).value)
        assert after.ends is None
        assert after.header.ends_removed == {"spool_full": 3}
        assert after.numbers().tolist() == before.numbers().tolist()
        again = SpooledBatch(encode_batch(after.header, after.verdicts))
        assert without_allows(again) == again


def test_segments_that_have_reports_alone_are_kept_by_a_restart(tmp_path: Path) -> None:
    """They have no verdict, and so look like the summaries of removed ones, which a kill may have left twice."""
    spool = Spool(tmp_path, segment_bytes=1)
    for number in range(3):
        value = make_batch(7, 0, {"ends": make_ends(make_rows(1), part=number)})
        spool.append(value, decode_batch(value).header)
    spool.close()
    assert [int(batch.ends["part"][0]) for batch in sent(Spool(tmp_path))] == [0, 1, 2]


def test_a_thinned_or_refused_batch_says_how_many_it_had() -> None:
    stored = SpooledBatch(make_batch(0, 3, {"ends": make_ends(make_rows(3))}))
    later = SpooledBatch(make_batch(3, 2, {"ends": make_ends(make_rows(2))}))
    for thinned in (without_allows(stored), *without_verdicts([stored])):
        header = decode_batch(thinned.value).header
        assert (header.ends, header.ends_removed) == (msgspec.UNSET, {"spool_full": 3})
    (both,) = without_verdicts([stored, later])
    assert decode_batch(both.value).header.ends_removed == {"spool_full": 5}
    refused = RefusedNumbers()
    refused.note(decode_batch(stored.value).header)
    marked = decode_batch(refused.marked(later.value, decode_batch(later.value).header))
    assert marked.header.ends_removed == {"refused": 3}
    assert marked.ends is not None
    assert len(marked.ends) == 2


def test_headers_number_the_reports_and_say_what_the_kernel_has_lost() -> None:
    lost = {"ring_full": 7, "uncertain": 0}
    ends = EndsRing(5)
    batcher = Batcher(("c1", "n1", "r1"), NoReferences(), dict, {}, Limits(verdicts=10))
    batcher.ends = CollectedEnds(ends, lambda: lost, {"ring_full": 4})  # type: ignore[arg-type]
    (first,) = batcher.take(everything=True)
    assert first.header.ends_first == 0
    assert first.header.ends_lost == {"ring_full": (3, 7), "uncertain": (0, 0)}
    assert batcher.unreported_losses() == []
    lost["uncertain"] = 1
    (last,) = batcher.unreported_losses()
    assert last.header.ends_first == 5
    assert last.header.ends_lost == {"ring_full": (0, 7), "uncertain": (1, 1)}


def test_a_batch_that_stands_for_others_has_the_number_of_their_first_report() -> None:
    lost = {"ring_full": [2, 9]}
    first = SpooledBatch(make_batch(0, 3, {"ends": make_ends(make_rows(3)), "ends_first": 40, "ends_lost": lost}))
    later = SpooledBatch(make_batch(3, 2, {"ends": make_ends(make_rows(2)), "ends_first": 43, "ends_lost": lost}))
    (both,) = without_verdicts([first, later])
    header = decode_batch(both.value).header
    assert (header.ends_first, header.ends_removed) == (40, {"spool_full": 5})
    assert header.ends_lost == {"ring_full": (4, 9)}
    refused = RefusedNumbers()
    refused.note(decode_batch(first.value).header)
    marked = decode_batch(refused.marked(later.value, decode_batch(later.value).header)).header
    assert (marked.ends_first, marked.ends_removed) == (40, {"refused": 3})


def test_a_report_that_is_not_valid_is_left_out_and_named_and_the_others_go_on() -> None:
    good = make_ends(make_rows(1))
    assert count_ends(good) == len(decode_batch(make_batch(0, 1, {"ends": good})).ends or ()) == 1
    later = 1 << 62
    bad = {
        make_ends(make_rows(3), how=[2, 9, 200]): ("unknown_end", 2, "9 in the report of verdict 0000000000000010-1"),
        make_ends(make_rows(2), how=[0, 1]): ("unknown_end", 1, "0 in the report of verdict 0000000000000010-0"),
        make_ends(make_rows(1, denied=True)): ("unknown_verdict", 1, "2 in the report"),
        make_ends(make_rows(1, flags=1)): ("unknown_verdict", 1, "in the report"),
        make_ends(make_rows(2), until_ns=[later, later - 1]): ("bad_time", 1, "in the report"),
    }
    for text, (reason, reports, named) in bad.items():
        batch = decode_batch(make_batch(0, 4, {"ends": text}))
        (refused,) = batch.refused_ends
        assert (refused.reason, refused.reports) == (reason, reports)
        assert named in refused.text
        assert len(batch.ends if batch.ends is not None else ()) == count_ends(text) - reports
        assert len(batch.verdicts) == 4


def test_reports_that_cannot_be_read_cost_no_verdict() -> None:
    good = make_ends(make_rows(4))
    bad = {
        "!": "is not base64", good[:-4]: "which are not reports", encode_ends(np.zeros(MAX_ENDS, END)) + good: "not",
    }  # fmt: skip
    for text, why in bad.items():
        if len(text) > MAX_TEXT:
            with pytest.raises(BatchError, match=r"bad_header.*length"):
                decode_batch(make_batch(0, 1, {"ends": text}))
            continue
        batch = decode_batch(make_batch(0, 2, {"ends": text}))
        (refused,) = batch.refused_ends
        assert refused.reason == "unreadable"
        assert refused.reports >= 1
        assert why in refused.text
        assert (len(batch.verdicts), len(batch.ends if batch.ends is not None else "none")) == (2, 0)
    assert not len(decode_ends("", END["verdict"], 0)[0])
    assert END.itemsize == END_BYTES
