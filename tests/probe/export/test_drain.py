"""The drain from a ring in memory to a real spool: the order of append and release, and where a restart goes on."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from enrich.wire.batch import EndpointRef, Header, PolicyRef, decode_batch
from probe.export.batcher import Limits
from probe.export.drain import Drain
from probe.export.spool import Spool
from tests.kafka.batches import make_rows
from tests.kafka.site import until
from tests.probe.export.spooling import hang_disk

LIMITS = Limits(verdicts=10, denied_s=0.01, allowed_s=0.01, quiet_s=0.01, heartbeat_s=3600)


class Ring:
    """Stands in for ``probe.export.ring.Ring`` over an array; ``steps`` lists the releases."""

    def __init__(self, verdicts: Any, ring: str = "r1", consumed: int = 0, lost: int = 0) -> None:
        self.id, self.verdicts = ring, verdicts
        self.consumer_number = self._next = consumed
        self.steps: list[tuple[str, int]] = []
        self._lost = lost
        self.cut_allowed = 0
        self.ends: Any = None

    @property
    def next_number(self) -> int:
        return self._next

    @property
    def producer_number(self) -> int:
        return len(self.verdicts)

    @property
    def unread(self) -> int:
        return self.producer_number - self.consumer_number

    def read(self, max_verdicts: int) -> tuple[int, Any]:
        first = self._next
        verdicts = self.verdicts[first : first + max_verdicts]
        self._next += len(verdicts)
        return first, verdicts

    def release(self, up_to_number: int) -> None:
        self.steps.append(("release", up_to_number))
        self.consumer_number = max(self.consumer_number, up_to_number)

    def skip_to(self, number: int) -> None:
        self.consumer_number = max(self.consumer_number, number)
        self._next = max(self._next, number)

    def lost(self) -> dict[str, int]:
        return {"ring_full": self._lost, "deny_windows_full": 0}

    def cut(self) -> dict[tuple[str, str], int]:
        return {("logging", "allowed"): self.cut_allowed, ("logging", "denied"): 0}

    def ends_lost(self) -> dict[str, int]:
        return {}

    def take_limited(self) -> list[tuple[int, int, int]]:
        return []


class NoReferences:
    """Knows no endpoint and no rule."""

    def endpoint(self, _number: int) -> EndpointRef | None:
        return None

    def rule(self, _number: int) -> list[PolicyRef] | None:
        return None


def drain(ring: Ring, spool: Spool) -> None:
    """Append all that is in the ring, as a probe does when it stops."""
    draining = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    draining.start("c1", "n1")
    draining.stop()
    assert not draining.failed.is_set()


class Earlier:
    """Stands in for ``probe.export.earlier_ring.EarlierRing``."""

    def __init__(self, ring: Ring, *, ended: bool) -> None:
        self.ring, self.ended, self.removed = ring, threading.Event(), False
        if ended:
            self.ended.set()

    def remove(self) -> None:
        assert self.ring.unread == 0
        self.removed = True


def drain_all(ring: Ring, spool: Spool, *earlier: Earlier) -> None:
    """Read the rings of other generations first, as a probe does that stops at once."""
    draining = Drain(ring, NoReferences(), spool, LIMITS, earlier)  # type: ignore[arg-type]
    draining.start("c1", "n1")
    draining.stop()
    assert not draining.failed.is_set()


def headers(spool: Spool) -> list[Header]:
    found = []
    while (unsent := spool.next(0)) is not None:
        found.append(decode_batch(unsent.value).header)
    return found


def numbers(spool: Spool) -> list[int]:
    return [number for one in headers(spool) for number in range(one.first, one.first + one.verdicts)]


def test_each_append_comes_before_its_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(make_rows(35))
    append = Spool.append

    def noted(self: Spool, value: bytes, header: Header) -> None:
        append(self, value, header)
        assert header == decode_batch(value).header
        ring.steps.append(("append", header.first + header.verdicts))

    monkeypatch.setattr(Spool, "append", noted)
    drain(ring, Spool(tmp_path))
    assert ring.steps == [(step, end) for end in (10, 20, 30, 35) for step in ("append", "release")]


@pytest.mark.parametrize(("appended", "released"), [(0, 0), (10, 0), (10, 10), (35, 0), (35, 10), (35, 35)])
def test_a_restart_goes_on_behind_the_last_verdict_in_the_spool(tmp_path: Path, appended: int, released: int) -> None:
    verdicts = make_rows(50)
    drain(Ring(verdicts[:appended]), Spool(tmp_path))
    # Killed between the append of the last batch and its release; started again with more verdicts in the ring.
    ring = Ring(verdicts, consumed=released)
    spool = Spool(tmp_path)
    drain(ring, spool)
    assert numbers(spool) == list(range(50))
    assert ring.consumer_number == 50


def test_a_torn_last_batch_is_read_from_the_ring_again(tmp_path: Path) -> None:
    verdicts = make_rows(20)
    drain(Ring(verdicts), Spool(tmp_path))
    segment = next(tmp_path.glob("*.seg"))
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size - 5)
    spool = Spool(tmp_path)
    drain(Ring(verdicts, consumed=10), spool)
    assert numbers(spool) == list(range(20))


def test_a_new_ring_starts_with_its_own_numbers(tmp_path: Path) -> None:
    drain(Ring(make_rows(30)), Spool(tmp_path))
    spool = Spool(tmp_path)
    drain(Ring(make_rows(5), "r2"), spool)
    found = headers(spool)
    assert [(one.ring, one.first, one.verdicts) for one in found][-1] == ("r2", 0, 5)
    assert [one.key for one in found] == [b"c1/n1/r1"] * 3 + [b"c1/n1/r2"]


def test_a_loss_is_reported_once_over_restarts_and_a_new_ring(tmp_path: Path) -> None:
    def reported(ring: Ring, spool: Spool) -> dict[str, tuple[int, int]]:
        drain(ring, spool)
        return headers(spool)[-1].lost

    spool = Spool(tmp_path)
    verdicts = make_rows(30)
    assert reported(Ring(verdicts[:10], lost=4), spool)["ring_full"] == (4, 4)
    unsent = Spool(tmp_path).next(0)
    assert unsent is not None
    spool.ack(unsent.position, refused=6)
    spool = Spool(tmp_path)
    lost = reported(Ring(verdicts[:20], lost=5), spool)
    assert (lost["ring_full"], lost["refused"]) == ((1, 5), (6, 6))
    spool = Spool(tmp_path)
    lost = reported(Ring(verdicts, lost=5), spool)
    assert (lost["ring_full"], lost["refused"]) == ((0, 5), (0, 6))
    # After a reboot the ring's counters start at 0, and the spool's go on.
    spool = Spool(tmp_path)
    lost = reported(Ring(verdicts[:3], "r2", lost=2), spool)
    assert (lost["ring_full"], lost["refused"]) == ((2, 2), (0, 6))


def test_no_batch_overtakes_one_that_the_disk_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, spool = Ring(make_rows(50)), Spool(tmp_path)
    append, refused = Spool.append, threading.Event()

    def full_for_one(self: Spool, value: bytes, header: Header) -> None:
        if header.first == 20 and not refused.is_set():
            refused.set()
            raise OSError(28, "No space left on device")
        append(self, value, header)

    monkeypatch.setattr(Spool, "append", full_for_one)
    draining = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    draining.start("c1", "n1")
    assert refused.wait(60)
    until(lambda: draining.problem or None, "the problem")
    draining.stop()
    # Whether it was stopped before the retry or after: the ring has all that is not in the spool, without a gap.
    assert numbers(spool) == list(range(ring.consumer_number))
    assert not draining.failed.is_set()
    monkeypatch.undo()
    spool = Spool(tmp_path)
    drain(Ring(ring.verdicts, consumed=ring.consumer_number), spool)
    assert numbers(spool) == list(range(50))


def test_the_ring_of_another_generation_is_read_to_its_end_before_the_own(tmp_path: Path) -> None:
    spool, earlier = Spool(tmp_path), Earlier(Ring(make_rows(25), "r0"), ended=True)
    drain_all(Ring(make_rows(15)), spool, earlier)
    assert [(one.ring, one.verdicts) for one in headers(spool)] == [
        ("r0", 10), ("r0", 10), ("r0", 5), ("r1", 10), ("r1", 5)]  # fmt: skip
    assert earlier.removed


def test_until_it_has_ended_nothing_of_the_own_ring_is_appended(tmp_path: Path) -> None:
    spool, own = Spool(tmp_path), Ring(make_rows(15))
    earlier = Earlier(Ring(make_rows(5), "r0"), ended=False)
    drain_all(own, spool, earlier)
    assert [one.ring for one in headers(spool)] == ["r0"]
    assert not earlier.removed
    assert own.consumer_number == 0


def test_a_killed_drain_goes_on_with_the_ring_of_the_last_batch(tmp_path: Path) -> None:
    """Two other generations; the last batch of the second is in the spool and, not released, in its ring."""
    rows = make_rows(20)
    drain(Ring(rows, "r9"), Spool(tmp_path))
    first, second = Earlier(Ring(make_rows(5), "r0"), ended=True), Earlier(Ring(rows, "r9", consumed=10), ended=True)
    spool = Spool(tmp_path)
    headers(spool)
    drain_all(Ring(make_rows(5)), spool, first, second)
    assert [(one.ring, one.first, one.verdicts) for one in headers(spool)] == [("r0", 0, 5), ("r1", 0, 5)]
    assert first.removed
    assert second.removed


def test_the_last_losses_of_a_ring_are_reported_although_no_verdict_follows(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    drain_all(Ring(make_rows(5), lost=2), spool, Earlier(Ring(make_rows(0), "r0", lost=7), ended=True))
    found = [(one.ring, one.verdicts, one.lost["ring_full"]) for one in headers(spool)]
    assert found == [("r0", 0, (7, 7)), ("r1", 5, (2, 2))]


def test_what_was_decided_in_another_cluster_is_appended_in_its_name(tmp_path: Path) -> None:
    verdicts = make_rows(40)
    drain(Ring(verdicts[:10]), Spool(tmp_path))
    # The same ring after a restart; the node belongs to another cluster by now, as the setting says at once ...
    spool, ring = Spool(tmp_path), Ring(verdicts[:20])
    draining = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    assert draining.known_cluster() == "c1"
    draining.start("c2", "n1")
    until(lambda: (draining._key[0] == "c2" and ring.unread == 0) or None, "the change")
    ring.verdicts = verdicts[:30]
    until(lambda: ring.unread == 0 or None, "all to be read")
    # ... or the API server later.
    draining.change_cluster("c3")
    until(lambda: draining._key[0] == "c3" or None, "the change")
    ring.verdicts = verdicts
    draining.stop()
    assert not draining.failed.is_set()
    assert numbers(Spool(tmp_path)) == list(range(40))
    found: dict[str, list[int]] = {}
    for one in headers(Spool(tmp_path)):
        found.setdefault(one.cluster, []).extend(range(one.first, one.first + one.verdicts))
    assert found == {"c1": list(range(20)), "c2": list(range(20, 30)), "c3": list(range(30, 40))}


class BusyRing(Ring):
    """Gets a verdict whenever the drain reads, and so is never empty."""

    def read(self, max_verdicts: int) -> tuple[int, Any]:
        self.verdicts = make_rows(len(self.verdicts) + 1)
        return super().read(min(max_verdicts, 1))


def test_a_change_of_cluster_does_not_wait_for_the_traffic_to_end(tmp_path: Path) -> None:
    ring, spool = BusyRing(make_rows(5)), Spool(tmp_path)
    draining = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    draining.start("c1", "n1")
    until(lambda: draining.verdicts >= 5 or None, "verdicts of the first cluster")
    draining.change_cluster("c2")
    until(lambda: draining._key[0] == "c2" or None, "the change")
    draining.stop()
    assert not draining.failed.is_set()
    assert numbers(Spool(tmp_path)) == list(range(ring.consumer_number))
    # All that is read is released; the next start reads the rest.
    assert ring.consumer_number == ring.next_number


def test_a_disk_that_does_not_answer_is_reported_and_health_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, fdatasync = threading.Event(), os.fdatasync

    def hang(descriptor: int) -> None:
        assert answers.wait(60)
        fdatasync(descriptor)

    monkeypatch.setattr("probe.export.drain._PATIENCE_S", 0.0)
    monkeypatch.setattr("probe.export.segment_file._SYNC_S", 0.0)
    ring, spool = Ring(make_rows(20)), Spool(tmp_path)
    monkeypatch.setattr("probe.export.segment_file.os.fdatasync", hang)
    draining = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    draining.start("c1", "n1")
    until(lambda: spool.unacked_batches == 1 or None, "the first batch")
    until(lambda: "has not answered" in (draining.problem or "") or None, "the problem")
    assert spool.lost()["spool_full"] == 0
    assert spool.size > 0
    answers.set()
    draining.stop()
    assert draining.problem is None
    assert numbers(spool) == list(range(20))


def test_the_offset_of_the_clock_is_that_of_the_last_process_until_this_one_has_measured_it(tmp_path: Path) -> None:
    def skew_after(number: int, measured: tuple[int, int] | None) -> tuple[int, int] | None:
        spool = Spool(tmp_path)
        ring = Ring(make_rows(number + 1), consumed=number)
        draining = Drain(ring, NoReferences(), spool, LIMITS, skew=lambda: measured)  # type: ignore[arg-type]
        draining.start("c1", "n1")
        draining.stop()
        last = spool.last_header
        spool.close()
        assert last is not None
        return last.skew

    assert skew_after(0, None) is None
    assert skew_after(1, (5, 1)) == (5, 1)
    assert skew_after(2, None) == (5, 1)
    assert skew_after(3, (0, 1)) == (0, 1)


def test_what_was_cut_is_in_the_headers_once_over_restarts_and_another_ring_counts_anew(tmp_path: Path) -> None:
    reported = []
    for verdicts, cut, name in ((10, 7, "r1"), (20, 7, "r1"), (30, 12, "r1"), (10, 4, "r2")):
        ring = Ring(make_rows(verdicts), name)
        ring.cut_allowed = cut
        spool = Spool(tmp_path)
        drain(ring, spool)
        assert spool.last_header is not None
        reported += spool.last_header.cut
        spool.close()
    assert [(one.verdicts, one.total) for one in reported] == [(7, 7), (0, 7), (5, 12), (4, 4)]
    assert {one.kind for one in reported} == {("logging", "allowed")}


def test_what_an_earlier_ring_has_cut_is_reported_before_it_is_removed(tmp_path: Path) -> None:
    ring, spool = Ring(make_rows(0), "earlier"), Spool(tmp_path)
    ring.cut_allowed = 3
    drain_all(Ring(make_rows(10)), spool, earlier := Earlier(ring, ended=True))
    assert earlier.removed
    assert [(one.ring, [cut.verdicts for cut in one.cut]) for one in headers(spool)] == [("earlier", [3]), ("r1", [])]


def test_a_disk_that_does_not_answer_holds_up_no_start_and_its_spool_is_opened_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(30)
    drain(Ring(rows[:10]), Spool(tmp_path))
    answers = hang_disk(monkeypatch)
    for name in ("_OPEN_S", "_RETRY_S", "_PATIENCE_S"):
        monkeypatch.setattr(f"probe.export.drain.{name}", 0.01)
    spool, ring = Spool(tmp_path, lazy=True), Ring(rows)
    first = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    assert first.known_cluster() is None
    first.start("c1", "n1")
    until(lambda: "has not answered" in (first.problem or "") or None, "the report")
    first.stop()
    assert not first.failed.is_set()
    assert ring.unread == 30
    second = Drain(ring, NoReferences(), spool, LIMITS)  # type: ignore[arg-type]
    second.start("c1", "n1")
    until(lambda: "has not answered" in (second.problem or "") or None, "the report")
    answers.set()
    until(lambda: (ring.unread == 0 and second.problem is None) or None, "all to be read")
    second.stop()
    assert numbers(spool) == list(range(30))
