"""The probe's tallies: some seconds apart, about what was read, and never one that no worker would accept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from enrich.model import Name
from probe import tallies
from probe.export.settled import SettledNumbers
from probe.kernel.decisions import Decisions
from probe.kernel.plan import Installed
from probe.policies_in_force import PoliciesOfEpochs
from probe.tallies import Tallies
from tests.kafka.batches import make_header


class Bench:
    """A probe of which a test sets what the tallies read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.end, self.read_to, self.ages = 100.0, 0, 0, {"Pod": 3.0}
        monkeypatch.setattr(tallies, "read_decisions", lambda _maps, _number: self.decisions())
        monkeypatch.setattr(tallies, "time", SimpleNamespace(monotonic=lambda: self.now, time_ns=lambda: 1))
        bench = self

        class Ring:
            id = "r1"

            @property
            def next_number(self) -> int:
                return bench.read_to

        unenforced = {Name("a", f"pod-{number}"): "no veth \N{SNOWMAN}" * 100 for number in range(30)}
        self.agent: Any = SimpleNamespace(
            generation=SimpleNamespace(maps=None), unenforced=unenforced, usage=lambda: {"addresses": (1, 2)},
            logging=SimpleNamespace(suspicious={"Namespace a": "yes"}), in_force=PoliciesOfEpochs(),
        )  # fmt: skip
        ring, publisher = Ring(), SimpleNamespace(settled=SettledNumbers())
        self.tallies = Tallies(self.agent, lambda: self.ages, ring, publisher, 10.0)  # type: ignore[arg-type]  # the parts that are read

    def decisions(self) -> Decisions:
        numbers = (self.end, self.end)
        return Decisions(decided=numbers, written=self.end, waiting=0, cut={}, lost={}, ring=numbers, verdicts=self.end)

    def rotate(self, seconds: float, end: int) -> int | None:
        """Close the deny windows so much later; return the verdicts of the tally that a batch may have."""
        self.now, self.end = self.now + seconds, end
        self.agent.generation.after_rotation()
        found = self.tallies.of("r1", self.read_to)
        return found.kernel.verdicts if found else None


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_tally_comes_some_seconds_after_the_last_and_waits_until_its_verdicts_are_read(bench: Bench) -> None:
    bench.read_to = 50
    assert bench.rotate(0, 50) == 50
    assert bench.rotate(5, 60) == 50, "it is not due yet"
    assert bench.rotate(5, 100) is None, "its verdicts are not read"
    assert bench.rotate(100, 900) is None
    bench.read_to = 120
    assert bench.tallies.of("r1", 120) is not None, "a ring that is read late has its tally all the same"
    assert bench.tallies.of("r2", 120) is None
    bench.read_to = 950
    assert bench.rotate(0, 940) == 940


def test_of_many_pods_the_first_are_named_and_all_are_counted(bench: Bench) -> None:
    bench.rotate(0, 0)
    found = bench.tallies.of("r1", 0)
    assert found is not None
    assert (len(found.state.unenforced), found.state.unenforced_pods) == (20, 30)
    assert found.state.suspicious == {"Namespace a": "yes"}


def test_what_a_tally_says_of_epochs_is_told_until_a_batch_with_it_is_in_the_spool(bench: Bench) -> None:
    bench.agent.in_force.note(Installed(0, 0, 0, 0, 5), [])
    for appended in (False, False, True):
        bench.rotate(100, 0)
        found = bench.tallies.of("r1", 0)
        assert found is not None
        assert [one.epoch for one in found.in_force] == [5]
        bench.tallies.note_appended(make_header(0, 1, **({"tally": found} if appended else {})))
    bench.rotate(100, 0)
    found = bench.tallies.of("r1", 0)
    assert found is not None
    assert found.in_force == ()


def test_a_tally_that_no_worker_would_accept_is_left_out(bench: Bench) -> None:
    bench.ages = {"Pod": float("inf")}
    assert bench.rotate(0, 0) is None
    bench.ages = {}
    assert bench.rotate(10, 0) == 0


def test_a_text_that_is_no_text_leaves_a_tally_out_and_ends_nothing(bench: Bench) -> None:
    bench.agent.logging.suspicious = {"Namespace a": "\udcff"}
    assert bench.rotate(0, 0) is None
    bench.agent.logging.suspicious = {}
    assert bench.rotate(10, 0) == 0
