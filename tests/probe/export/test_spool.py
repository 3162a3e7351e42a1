"""The spool on a real disk: what is left and what is counted after a kill, on a full disk, in a full spool."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from enrich.wire.batch import Batch, Verdict, decode_batch, encode_batch
from probe.export.segment import (
    SpooledBatch,
    SpoolPosition,
    UnsentBatch,
    pack,
    whole_batches,
    without_allows,
    without_verdicts,
)
from probe.export.spool import Spool
from tests.kafka.batches import make_batch, make_header, make_rows
from tests.probe.export.spooling import append, hang_disk
from tests.waiting import until

ROWS = 20


@functools.cache
def batch(number: int, *, denied: int = 0) -> bytes:
    """Return the ``number``-th batch of ROWS verdicts, of which the last ``denied`` are denies."""
    verdicts = make_rows(ROWS)
    verdicts["verdict"][ROWS - denied :] = Verdict.DENY
    return encode_batch(make_header(number * ROWS, ROWS), verdicts)


SIZE = len(pack(SpooledBatch(batch(10))))


def drained(spool: Spool) -> list[bytes]:
    """Take all that is left, as its bytes; each header must be the one in the bytes."""
    found = []
    while (unsent := spool.next(0)) is not None:
        found.append(unsent.value)
        assert unsent.header == (decode_batch(unsent.value).header if unsent.value else None)
    return found


def taken_from(spool: Spool) -> UnsentBatch:
    """Take one batch, which must be there."""
    unsent = spool.next(0)
    assert unsent is not None
    return unsent


def numbers(values: list[bytes]) -> list[int]:
    """Return the numbers of all verdicts in these batches, in order."""
    return [number for value in values if value for number in decode_batch(value).numbers().tolist()]


def denied_in(value: Batch) -> int:
    return int(np.count_nonzero(value.verdicts["verdict"] == Verdict.DENY))


def test_batches_come_out_in_the_order_of_their_appends_also_after_a_restart(tmp_path: Path) -> None:
    wanted = [batch(number) for number in range(50)]
    spool = Spool(tmp_path, segment_bytes=5 * SIZE)
    for value in wanted[:30]:
        append(spool, value)
    assert taken_from(spool)[:2] == (SpoolPosition(1, 0), wanted[0])
    # Killed here: nothing is closed, nothing was acknowledged.
    spool = Spool(tmp_path, segment_bytes=5 * SIZE)
    for value in wanted[30:]:
        append(spool, value)
    assert spool.unacked_batches == 50
    assert drained(spool) == wanted
    assert spool.last_header == decode_batch(wanted[-1]).header


def test_the_publisher_waits_for_the_next_append(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.next(0.01) is None
    append(spool, batch(0))
    unsent = spool.next(10)
    assert unsent == UnsentBatch(SpoolPosition(1, 0), batch(0), decode_batch(batch(0)).header)


@pytest.mark.parametrize("taken", [0, 1, 7, 12])
def test_a_restart_goes_on_behind_what_kafka_acknowledged(tmp_path: Path, taken: int) -> None:
    wanted = [batch(number) for number in range(12)]
    spool = Spool(tmp_path, segment_bytes=3 * SIZE)
    for value in wanted:
        append(spool, value)
    for _ in range(taken):
        spool.ack(taken_from(spool).position)
    # Twice, because the first restart starts a new segment.
    for _ in range(2):
        spool = Spool(tmp_path, segment_bytes=3 * SIZE)
        assert spool.unacked_batches == 12 - taken
    assert drained(spool) == wanted[taken:]
    assert spool.last_header == decode_batch(wanted[-1]).header


def test_segments_that_kafka_acknowledged_are_deleted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=3 * SIZE)
    for number in range(12):
        append(spool, batch(number))
    while (found := spool.next(0)) is not None:
        spool.ack(found[0])
    assert spool.unacked_batches == 0
    assert len(list(tmp_path.glob("*.seg"))) == 1
    assert spool.size <= 3 * SIZE


def test_a_stored_batch_is_whole_or_absent_wherever_it_was_torn() -> None:
    records = [SpooledBatch(batch(10)), SpooledBatch(b"", 7), SpooledBatch(batch(11), 3)]
    data = b"".join(map(pack, records))
    ends = [sum(len(pack(record)) for record in records[:count]) for count in range(4)]
    for end in range(len(data)):
        assert list(whole_batches(data[:end])) == records[: sum(whole <= end for whole in ends) - 1]
    assert list(whole_batches(data)) == records


@pytest.mark.parametrize("torn", [1, 2, SIZE // 2, SIZE - 13, SIZE - 12, SIZE - 11, SIZE - 1, SIZE])
def test_a_torn_tail_is_cut_off_and_can_be_appended_again(tmp_path: Path, torn: int) -> None:
    spool = Spool(tmp_path)
    for number in (10, 11, 12):
        append(spool, batch(number))
    segment = next(tmp_path.glob("*.seg"))
    os.truncate(segment, segment.stat().st_size - torn)
    spool = Spool(tmp_path)
    assert spool.last_header == decode_batch(batch(11)).header
    append(spool, batch(12))
    assert drained(spool) == [batch(10), batch(11), batch(12)]


@pytest.mark.parametrize("zeros", [1, 11, 12, 24, 4096])
def test_zeros_at_the_end_are_ignored(tmp_path: Path, zeros: int) -> None:
    spool = Spool(tmp_path)
    append(spool, batch(0))
    with next(tmp_path.glob("*.seg")).open("ab") as file:
        file.write(bytes(zeros))
    spool = Spool(tmp_path)
    append(spool, batch(1))
    assert drained(spool) == [batch(0), batch(1)]


def test_a_changed_byte_is_detected(tmp_path: Path) -> None:
    for at in range(SIZE):
        data = bytearray(pack(SpooledBatch(batch(10))))
        data[at] ^= 0x40
        assert list(whole_batches(bytes(data))) == []


# --- the file `acked`


@pytest.mark.parametrize("damage", ["lost", "torn", "foreign"])
def test_without_the_acked_file_all_is_sent_again_and_reported_losses_stay_counted(tmp_path: Path, damage: str) -> None:
    spool = Spool(tmp_path, segment_bytes=2 * SIZE)
    for number in range(4):
        append(spool, batch(number))
    spool.ack(taken_from(spool).position, refused=ROWS)
    reported = {reason: (0, total) for reason, total in spool.lost().items()} | {"ring_full": (0, 5)}
    append(spool, make_batch(4 * ROWS, ROWS, {"lost": reported}))
    acked = tmp_path / "acked"
    match damage:
        case "lost":
            acked.unlink()
        case "torn":
            os.truncate(acked, acked.stat().st_size - 1)
        case "foreign":
            acked.write_text("1 1 0 0\n")
    spool = Spool(tmp_path, segment_bytes=2 * SIZE)
    assert spool.lost() == {"spool_full": 0, "refused": ROWS}
    assert numbers(drained(spool)) == list(range(5 * ROWS))


def test_an_acked_file_that_points_behind_the_end_loses_nothing_appended_later(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(3):
        append(spool, batch(number))
        spool.ack(taken_from(spool).position)
    segment = next(tmp_path.glob("*.seg"))
    os.truncate(segment, segment.stat().st_size - SIZE)
    spool = Spool(tmp_path)
    append(spool, batch(3))
    assert drained(spool) == [batch(3)]


# --- a full spool


def test_a_batch_of_another_version_is_lost_with_its_count_and_nothing_else(tmp_path: Path) -> None:
    other = batch(1).replace(b'"verdicts":', b'"rows":')
    written = Spool(tmp_path)
    for number, value in enumerate((batch(0), other, batch(2))):
        written.append(value, decode_batch(batch(number)).header)
    # Opened again, because the headers of appended batches are handed on in memory.
    spool = Spool(tmp_path)
    taken = [taken_from(spool) for _ in range(3)]
    assert [(one.header is None, one.unreadable) for one in taken] == [(False, 0), (True, ROWS), (False, 0)]


def test_a_full_spool_removes_allows_first_oldest_first_and_counts_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=40 * SIZE)
    for number in range(60):
        append(spool, batch(number, denied=5))
    assert spool.size <= 40 * SIZE
    lost = spool.lost()["spool_full"]
    found = [decode_batch(value) for value in drained(spool)]
    assert sum(map(denied_in, found)) == 60 * 5
    assert sum(len(one.verdicts) for one in found) + lost == 60 * ROWS
    thinned = [one.header.kept is not None for one in found]
    assert thinned == sorted(thinned, reverse=True)
    assert any(thinned)
    assert not all(thinned)
    for number, one in enumerate(found):
        if one.header.kept is not None:
            assert one.header.kept == [(number * ROWS + ROWS - 5, 5)]
            assert one.numbers().tolist() == list(range((number + 1) * ROWS - 5, (number + 1) * ROWS))


def test_a_full_spool_removes_denies_last_oldest_first_and_counts_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=40 * SIZE)
    for number in range(200):
        append(spool, batch(number, denied=ROWS))
        assert spool.size <= 40 * SIZE
    lost = spool.lost()["spool_full"]
    assert lost > 0
    assert lost % ROWS == 0
    assert numbers(drained(spool)) == list(range(lost, 200 * ROWS))


def test_the_limit_is_kept_however_long_the_outage(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=12 * SIZE)
    for number in range(600):
        # A node without traffic appends heartbeats.
        append(spool, batch(number, denied=ROWS) if number % 3 else make_batch(number * ROWS, 0))
        assert spool.size <= 12 * SIZE
    assert len(numbers(drained(spool))) + spool.lost()["spool_full"] == 400 * ROWS


def test_a_loss_and_its_count_survive_a_kill_together(tmp_path: Path) -> None:
    """It is killed after each append, and acknowledged late: each verdict is there or counted, once."""
    total = 0
    sent: list[int] = []
    for number in range(45):
        spool = Spool(tmp_path, max_bytes=20 * SIZE)
        append(spool, batch(number, denied=number % 3))
        total += ROWS
        if number % 4 == 3:
            unsent = taken_from(spool)
            sent += numbers([unsent.value])
            spool.ack(unsent.position)
        here = numbers(drained(Spool(_copy(tmp_path))))
        assert len(here) + len(sent) + spool.lost()["spool_full"] == total
    assert spool.lost()["spool_full"] > 0
    assert len(set(sent)) == len(sent)


def _copy(folder: Path) -> Path:
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy


def test_batches_that_the_publisher_has_taken_are_never_rewritten(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=40 * SIZE)
    for number in range(39):
        append(spool, batch(number))
    taken = [taken_from(spool) for _ in range(7)]
    for number in range(39, 120):
        append(spool, batch(number, denied=1))
    rest = drained(spool)
    for unsent in taken:
        assert decode_batch(unsent.value).header.kept is None
        spool.ack(unsent.position)
    lost = spool.lost()["spool_full"]
    assert len(numbers([unsent.value for unsent in taken] + rest)) + lost == 120 * ROWS
    # Only those that were taken are acknowledged: a restart goes on behind them.
    assert numbers(drained(Spool(tmp_path, max_bytes=40 * SIZE))) == numbers(rest)


def test_the_newest_batch_is_never_thinned_because_the_next_start_goes_on_behind_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=12 * SIZE)
    for number in range(100):
        append(spool, batch(number))
    last = Spool(tmp_path, max_bytes=12 * SIZE).last_header
    assert last == decode_batch(batch(99)).header


def test_losses_of_deleted_segments_stay_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=12 * SIZE)
    for number in range(50):
        append(spool, batch(number, denied=2))
    lost = spool.lost()
    positions = []
    while (unsent := spool.next(0)) is not None:
        positions.append(unsent.position)
    for position in positions:
        spool.ack(position, refused=1)
    assert lost["spool_full"] > 0
    assert spool.lost() == {"spool_full": lost["spool_full"], "refused": len(positions)}
    assert Spool(tmp_path).lost() == spool.lost()


def test_a_thinned_batch_keeps_only_the_references_of_its_verdicts() -> None:
    verdicts = make_rows(4)
    verdicts["verdict"][1] = verdicts["verdict"][3] = Verdict.AUDIT
    verdicts["endpoint"][0], verdicts["rule"][0] = 8, 13
    full = make_header(100, 4)
    header = make_header(
        100, 4, endpoints=full.endpoints | {"8": full.endpoints["7"]}, rules=full.rules | {"13": full.rules["12"]}
    )
    thinned = without_allows(SpooledBatch(encode_batch(header, verdicts), 3))
    kept = decode_batch(thinned.value)
    assert (kept.header.first, kept.header.verdicts, kept.header.kept) == (101, 2, [(101, 1), (103, 1)])
    assert (set(kept.header.endpoints), set(kept.header.rules)) == ({"7"}, {"12"})
    assert thinned.lost == 5
    assert without_allows(thinned) == thinned
    found = without_verdicts([thinned, SpooledBatch(b"", 10), SpooledBatch(batch(10))])
    assert [one.lost for one in found] == [5 + 2 + 10 + ROWS]
    summary = decode_batch(found[0].value).header
    assert (summary.first, summary.verdicts, summary.removed) == (220, 0, ("spool_full", 100, 120))
    assert without_verdicts([]) == []


def test_a_reader_does_not_wait_for_a_disk_that_does_not_let_the_spool_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(Spool(tmp_path), batch(0))
    answers = hang_disk(monkeypatch)
    spool = Spool(tmp_path, lazy=True)
    opening = threading.Thread(target=spool.open)
    opening.start()
    reading = threading.Thread(target=spool.rewind)
    reading.start()
    try:
        until(lambda: not reading.is_alive())
        assert spool.next(0) is None
    finally:
        answers.set()
        opening.join()
        reading.join()
    assert numbers(drained(spool)) == list(range(ROWS))


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 kB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.kernel
def test_nothing_is_half_written_to_a_full_disk_and_the_spool_can_be_emptied(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", segment_bytes=4 * SIZE)
    appended = _until_full(lambda number: append(spool, batch(number)))
    with (small_disk / "filler").open("wb", buffering=0) as file:
        _until_full(lambda _number: file.write(bytes(1)))
    # A restart can read it, and acknowledgements make room.
    spool = Spool(small_disk / "spool", segment_bytes=4 * SIZE)
    sent = []
    for _ in range(appended):
        unsent = taken_from(spool)
        sent.append(unsent.value)
        spool.ack(unsent.position)
    append(spool, batch(appended))
    assert numbers([*sent, *drained(spool)]) == list(range((appended + 1) * ROWS))
    assert spool.lost() == {"spool_full": 0, "refused": 0}


def _until_full(write: Callable[[int], object]) -> int:
    """Write until the disk is full; return how many writes succeeded."""
    done = 0
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - it is not known which write fails
        for done in itertools.count():
            write(done)
    return done
