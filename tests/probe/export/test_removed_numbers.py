"""Verdicts that the probe loses, named by its batches and detected by a worker: each missing one is reported once."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from enrich.wire.batch import Header, Verdict, decode_batch, encode_batch
from probe.export.segment import Segment, SpooledBatch, SpoolPosition, join, without_verdicts
from probe.export.spool import Spool
from probe.export.summary import RefusedNumbers
from streams.worker.checkpoint import Checkpoint, RingPosition
from streams.worker.losses import Loss, Losses
from tests.kafka.batches import make_header, make_rows
from tests.probe.export.spooling import append

ROWS = 20
MAX_BYTES = 40_000


def batch(first: int, lost: dict[str, tuple[int, int]], *, ring: str = "r1", denied: int = 0) -> bytes:
    verdicts = make_rows(ROWS)
    verdicts["verdict"][:denied:2] = Verdict.DENY
    return encode_batch(make_header(first, ROWS, ring=ring, lost=lost), verdicts)


class Worker:
    """A reader of what the spool hands out, which knows each ring from its first number on."""

    def __init__(self) -> None:
        self.reported_losses: Counter[tuple[str, str]] = Counter()
        self.seen: set[tuple[str, int]] = set()
        self.losses = Losses()
        for ring in ("r1", "r2"):
            self.losses.detect(0, make_header(0, 0, ring=ring))

    def read(self, value: bytes) -> None:
        found = decode_batch(value)
        for loss in self.losses.detect(0, found.header):
            assert isinstance(loss, Loss)
            self.reported_losses[loss.kind, loss.reason] += loss.verdicts
        self.seen |= {(found.header.ring, number) for number in found.numbers().tolist()}


class Probe:
    """Appends batches whose headers report the spool's losses, as the drain makes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.first, self.appended, self.reported = folder, 0, 0, 0
        self.spool = Spool(folder, max_bytes=MAX_BYTES)

    def append(self, *, ring: str = "r1", denied: int = 0) -> None:
        total = self.spool.lost()["spool_full"]
        append(self.spool, batch(self.first, {"spool_full": (total - self.reported, total)}, ring=ring, denied=denied))
        self.reported, self.first, self.appended = total, self.first + ROWS, self.appended + ROWS

    def kill(self) -> None:
        self.spool = Spool(self.folder, max_bytes=MAX_BYTES)

    def send(self, worker: Worker) -> None:
        while (unsent := self.spool.next(0)) is not None:
            if unsent.header:
                worker.read(unsent.value)


@pytest.mark.parametrize("denied", [0, 7, ROWS])
def test_what_a_full_spool_removes_is_reported_as_lost_and_not_as_a_gap(tmp_path: Path, denied: int) -> None:
    probe, worker = Probe(tmp_path), Worker()
    for _ in range(120):
        probe.append(denied=denied)
    probe.send(worker)
    probe.append()
    probe.send(worker)
    missing = probe.appended - len(worker.seen)
    assert missing > 0
    assert worker.reported_losses == {("lost", "spool_full"): missing}
    assert probe.spool.lost()["spool_full"] == missing


def test_what_is_removed_of_a_ring_that_has_ended_is_reported_once(tmp_path: Path) -> None:
    probe, worker = Probe(tmp_path), Worker()
    for _ in range(60):
        probe.append()
    probe.kill()
    probe.first = 0
    for _ in range(120):
        probe.append(ring="r2", denied=3)
    probe.send(worker)
    probe.append(ring="r2")
    probe.send(worker)
    assert worker.reported_losses == {("lost", "spool_full"): probe.appended - len(worker.seen)}


@pytest.mark.parametrize("seed", range(4))
def test_each_missing_verdict_is_reported_once_after_kills_and_repeats(tmp_path: Path, seed: int) -> None:
    chance, probe, worker = random.Random(seed), Probe(tmp_path), Worker()  # noqa: S311 - not for secrets
    positions: list[SpoolPosition] = []
    for _ in range(250):
        probe.append(denied=chance.choice([0, 0, 5, ROWS]))
        match chance.randrange(20):
            case 0:
                probe.kill()
                positions = []
            case 1:
                probe.spool.rewind()
                positions = []
            case 2 | 3 | 4:
                for _ in range(chance.randrange(9)):
                    if (unsent := probe.spool.next(0)) is not None and unsent.header:
                        worker.read(unsent.value)
                        positions.append(unsent.position)
            case 5 if positions:
                probe.spool.ack(positions.pop(0))
                positions = []
    probe.spool.rewind()
    probe.send(worker)
    missing = probe.appended - len(worker.seen)
    assert missing > 0
    assert worker.reported_losses == {("lost", "spool_full"): missing}


def test_another_worker_that_takes_over_reports_the_rest_once(tmp_path: Path) -> None:
    probe, first = Probe(tmp_path), Worker()
    for _ in range(120):
        probe.append(denied=5)
    values = [unsent.value for unsent in iter(lambda: probe.spool.next(0), None) if unsent and unsent.header]
    for value in values[:9]:
        first.read(value)
    next_number, totals = first.losses.position(0, make_header(0, 0))
    second = Worker()
    ring = RingPosition("n1", "r1", next_number, 0, totals)
    second.losses.take_over(0, Checkpoint(offset=9, complete=True, rings=[ring]), is_current=True)
    for value in values[5:]:
        second.read(value)
    missing = probe.appended - len(first.seen | second.seen)
    assert first.reported_losses + second.reported_losses == {("lost", "spool_full"): missing}


def test_a_kill_while_summaries_are_joined_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, left = tmp_path / "spool", tmp_path / "left"

    def killed_after(segment: Segment, later: Segment) -> None:
        join(segment, later)
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(folder, left)

    monkeypatch.setattr("probe.export.spool.join", killed_after)
    probe = Probe(folder)
    joined = 0
    for _ in range(200):
        probe.append()
        if not left.exists():
            continue
        copy, worker = Probe(left), Worker()
        copy.send(worker)
        assert worker.reported_losses == {("lost", "spool_full"): copy.spool.lost()["spool_full"]}
        assert len(worker.seen) + copy.spool.lost()["spool_full"] == probe.appended - ROWS
        shutil.rmtree(left)
        joined += 1
    assert joined > 3


def test_the_summaries_of_a_long_outage_do_not_fill_the_disk(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    for _ in range(600):
        probe.append(denied=ROWS)
        assert probe.spool.size <= MAX_BYTES
    assert len(list(tmp_path.glob("*.seg"))) < 12


# --- refused by Kafka


def refused_and_next(*refused: tuple[int, int], following: bytes) -> Header:
    numbers = RefusedNumbers()
    for first, verdicts in refused:
        numbers.note(make_header(first, verdicts))
    return decode_batch(numbers.marked(following, decode_batch(following).header)).header


def test_batches_that_kafka_refused_are_reported_as_lost_by_the_next_one_although_its_totals_come_later() -> None:
    worker = Worker()
    worker.read(batch(0, {}))
    following = refused_and_next((20, 30), (50, 50), following=batch(100, {"refused": (30, 30)}))
    worker.read(encode_batch(following, make_rows(ROWS)))
    worker.read(batch(120, {"refused": (50, 80)}))
    assert worker.reported_losses == {("lost", "refused"): 80}


def test_a_batch_that_does_not_follow_what_was_refused_is_sent_as_it_is() -> None:
    for following in (batch(200, {}), batch(100, {}, ring="r2")):
        assert refused_and_next((20, 80), following=following) == decode_batch(following).header


def test_summaries_stand_for_a_heartbeat_and_its_losses() -> None:
    heartbeats = [encode_batch(make_header(5, 0, lost={"ring_full": (n, 2 * n)}), make_rows(0)) for n in (3, 4)]
    [stored] = without_verdicts([SpooledBatch(value) for value in heartbeats])
    header = decode_batch(stored.value).header
    assert (header.removed, header.first, header.lost) == (msgspec.UNSET, 5, {"ring_full": (7, 8)})
