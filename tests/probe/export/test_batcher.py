"""When a batch ends, and what its header says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from enrich.wire.batch import Batch, EndpointRef, PolicyRef, Verdict, decode_batch
from enrich.wire.cuts import Cut, CutPart
from enrich.wire.tally import KernelTally, Tally
from probe.export.batcher import Batcher, Limits, clock_offset_ns
from probe.export.cut_report import CutReport, CutSource
from tests.kafka.batches import make_rows

WEB = EndpointRef("shop", "web-0", "uid-web-0")
ALLOW = [PolicyRef("NetworkPolicy", "shop", "web-allow-api", 0)]


@dataclass
class References:
    """Knows endpoint 7 and the rules that a test gives."""

    rules: dict[int, Sequence[PolicyRef]] = field(default_factory=lambda: {12: ALLOW})

    def endpoint(self, number: int) -> EndpointRef | None:
        return WEB if number == 7 else None

    def rule(self, number: int) -> Sequence[PolicyRef] | None:
        return self.rules.get(number)


def tally(ring_end: int) -> Tally:
    """A tally that is about the verdicts below a number."""
    end = (ring_end, ring_end)
    return Tally(
        at=1, every=10, kernel=KernelTally(decided=end, written=ring_end, waiting=0, ring=end, verdicts=ring_end)
    )


class Bench:
    """A batcher whose clock, losses and tally a test sets."""

    def __init__(
        self,
        limits: Limits | None = None,
        references: References | None = None,
        reported: dict[str, int] | None = None,
    ) -> None:
        self.now = 100.0
        self.lost: dict[str, int] = {}
        self.references = references or References()
        self.tally: Tally | None = None
        self.batcher = Batcher(
            ("c1", "n1", "r1"), self.references, lambda: self.lost, reported or {}, limits, lambda: self.now,
            tally=lambda end: self.tally if self.tally and self.tally.kernel.ring[1] <= end else None,
        )  # fmt: skip

    def take(self, *, everything: bool = False) -> list[Batch]:
        return [decode_batch(one.value) for one in self.batcher.take(everything=everything)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_batch_ends_at_the_limit_of_verdicts(bench: Bench) -> None:
    bench.batcher.start_at(1000)
    verdicts = make_rows(4500)
    bench.batcher.add(1000, verdicts[:1999])
    assert bench.take() == []
    bench.batcher.add(2999, verdicts[1999:])
    full = bench.take()
    assert [(one.header.first, one.header.verdicts) for one in full] == [(1000, 2000), (3000, 2000)]
    assert bench.batcher.waiting == 500
    rest = bench.take(everything=True)
    assert [(one.header.first, one.header.verdicts) for one in rest] == [(5000, 500)]
    assert b"".join(one.verdicts.tobytes() for one in full + rest) == verdicts.tobytes()


def test_a_tally_is_in_one_batch_the_first_that_ends_behind_what_it_is_about(bench: Bench) -> None:
    bench.tally = tally(3000)
    bench.batcher.add(0, make_rows(4500))
    tallies = [one.header.tally for one in bench.take(everything=True)]
    assert tallies == [msgspec.UNSET, bench.tally, msgspec.UNSET]
    bench.now += 10
    bench.tally = tally(4500)
    [heartbeat] = bench.take()
    assert (heartbeat.header.verdicts, heartbeat.header.tally) == (0, bench.tally)


def test_a_batch_ends_at_the_limit_of_bytes_references_included() -> None:
    references = References(
        {rule: [PolicyRef("NetworkPolicy", "shop", f"policy-{rule}-{'x' * 50}", 0)] * 4 for rule in range(64)}
    )
    bench = Bench(Limits(verdicts=64, bytes=8000), references)
    verdicts = make_rows(64)
    verdicts["rule"] = range(64)
    bench.batcher.add(0, verdicts)
    encoded = bench.batcher.take()
    assert len(encoded) == 1
    # What is due is taken at once, in as many batches as it needs.
    encoded += bench.batcher.take(everything=True)
    batches = [decode_batch(one.value) for one in encoded]
    assert all(len(one.value) <= 8000 for one in encoded)
    assert [one.end for one in encoded] == [one.header.first + one.header.verdicts for one in batches]
    assert [number for one in batches for number in one.numbers().tolist()] == list(range(64))
    assert b"".join(one.verdicts.tobytes() for one in batches) == verdicts.tobytes()


def test_a_verdict_whose_references_alone_exceed_the_limit_is_a_batch_of_its_own() -> None:
    references = References({12: [PolicyRef("NetworkPolicy", "shop", f"policy-{n}", 0) for n in range(500)]})
    bench = Bench(Limits(bytes=4000), references)
    bench.batcher.add(0, make_rows(3))
    assert [one.header.verdicts for one in bench.take(everything=True)] == [1, 1, 1]


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.AUDIT, Verdict.DENY | 0x80])
def test_a_denied_verdict_waits_a_tenth_of_a_second(bench: Bench, verdict: int) -> None:
    bench.batcher.add(0, make_rows(5))
    bench.now += 0.01
    bench.batcher.add(5, make_rows(1, verdict=verdict))
    bench.now += 0.099
    assert bench.take() == []
    bench.now += 0.002
    assert [one.header.verdicts for one in bench.take()] == [6]


@pytest.mark.parametrize(("verdicts", "patience"), [(50, 2.0), (150, 0.5)])
def test_allows_wait_longer_on_a_quiet_node(bench: Bench, verdicts: int, patience: float) -> None:
    bench.batcher.add(0, make_rows(verdicts))
    bench.now += patience - 0.01
    assert bench.take() == []
    bench.now += 0.02
    assert [one.header.verdicts for one in bench.take()] == [verdicts]


def test_later_verdicts_do_not_make_the_first_wait_longer(bench: Bench) -> None:
    bench.batcher.add(0, make_rows(150))
    for number in range(10):
        bench.now += 0.051
        bench.batcher.add(150 + number, make_rows(1))
    assert [one.header.verdicts for one in bench.take()] == [160]


def test_a_node_without_verdicts_sends_a_heartbeat(bench: Bench) -> None:
    bench.batcher.start_at(77)
    bench.now += 9.9
    assert bench.take() == []
    bench.now += 0.2
    (beat,) = bench.take()
    assert (beat.header.first, beat.header.verdicts, beat.header.node, beat.header.ring) == (77, 0, "n1", "r1")
    assert bench.take() == []
    bench.now += 10.1
    assert len(bench.take()) == 1
    # Verdicts after it have the next numbers.
    bench.batcher.add(77, make_rows(1))
    assert [one.header.first for one in bench.take(everything=True)] == [77]


def test_taking_everything_gives_nothing_if_there_are_no_verdicts(bench: Bench) -> None:
    assert bench.take(everything=True) == []


def test_the_header_has_the_references_of_its_verdicts_only(bench: Bench) -> None:
    verdicts = make_rows(4)
    verdicts["rule"] = [12, 99, 0, 12]
    verdicts["endpoint"] = [7, 7, 8, 7]
    bench.batcher.add(0, verdicts)
    (found,) = bench.take(everything=True)
    assert found.header.endpoints == {"7": WEB}
    assert found.header.rules == {"12": ALLOW}
    assert (found.header.cluster, found.header.verdict_bytes) == ("c1", 88)


def test_losses_are_reported_since_the_last_batch_and_as_totals() -> None:
    bench = Bench(reported={"ring_full": 10, "spool_full": 3})
    reported = []
    for lost in (
        {"ring_full": 10, "spool_full": 3},
        {"ring_full": 15, "spool_full": 3},
        {"ring_full": 15, "refused": 2},
    ):
        bench.lost = lost
        bench.batcher.add(0, make_rows(1))
        reported += [one.header.lost for one in bench.take(everything=True)]
    assert reported == [
        {"ring_full": (0, 10), "spool_full": (0, 3)},
        {"ring_full": (5, 15), "spool_full": (0, 3)},
        {"ring_full": (0, 15), "refused": (2, 2)},
    ]


def test_a_loss_is_reported_once_if_several_batches_end_at_once(bench: Bench) -> None:
    bench.lost = {"ring_full": 4}
    bench.batcher.add(0, make_rows(4001))
    assert [one.header.lost["ring_full"] for one in bench.take(everything=True)] == [(4, 4), (0, 4), (0, 4)]


def test_a_probe_suspended_between_two_clock_readings_misdates_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = 0, iter([0, 0, 10**9, 10, 10, 10, 0, 10**9, 0])

    def read(offset: int) -> int:
        nonlocal now
        now += next(waits)
        return now + offset

    monkeypatch.setattr("time.monotonic_ns", lambda: read(0))
    monkeypatch.setattr("time.time_ns", lambda: read(5_000))
    assert abs(clock_offset_ns() - 5_000) <= 10


def test_a_header_counts_what_was_cut_in_a_second_or_more(bench: Bench) -> None:
    cut = {("limit", "allowed"): 5, ("limit", "denied"): 0}
    bench.batcher.cut_report = CutReport(CutSource(lambda: cut), {("limit", "allowed"): 2}, lambda: bench.now)

    def reported() -> list[Cut]:
        bench.batcher.add(0, make_rows(1))
        [batch] = bench.take(everything=True)
        return batch.header.cut

    assert reported() == [Cut("limit", "allowed", 3, 5)]
    cut["limit", "allowed"] = 9
    bench.now += 0.5
    assert reported() == [Cut("limit", "allowed", 0, 5)]
    bench.now += 0.5
    assert reported() == [Cut("limit", "allowed", 4, 9, 1000)]
    cut["limit", "allowed"] = 10
    assert bench.batcher.unreported_losses()[0].header.cut == [Cut("limit", "allowed", 1, 10, 1)]
    assert bench.batcher.unreported_losses() == []


def test_a_header_says_in_which_namespaces_a_limit_has_cut(bench: Bench) -> None:
    totals, limited = {("limit", "allowed"): 0, ("limit", "denied"): 0}, list[tuple[int, int, int]]()
    source = CutSource(lambda: totals, lambda: limited, bench.references.endpoint)
    bench.batcher.cut_report = CutReport(source, {}, lambda: bench.now)

    def reported() -> list[Cut]:
        bench.now += 1
        bench.batcher.add(0, make_rows(1))
        [batch] = bench.take(everything=True)
        return batch.header.cut

    assert reported() == []
    totals.update({("limit", "allowed"): 9, ("limit", "denied"): 6})
    limited += [(7, Verdict.ALLOW, 8), (7, Verdict.DENY, 1), (7, Verdict.AUDIT, 2), (99, Verdict.DENY, 3)]
    parts = [CutPart("shop", "audit", 2), CutPart("shop", "deny", 1), CutPart("", "deny", 3)]
    assert reported() == [
        Cut("limit", "allowed", 9, 9, 1000, [CutPart("shop", "allow", 8)]),
        Cut("limit", "denied", 6, 6, 1000, parts),
    ]
    # The count of one of the 8 was read in the header before.
    totals["limit", "allowed"] = 16
    assert reported()[0] == Cut("limit", "allowed", 7, 16, 1000, [CutPart("shop", "allow", 7)])
