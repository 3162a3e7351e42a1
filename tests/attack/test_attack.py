"""The attacks in their short form, and the report that fails if one succeeds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from tests.attack.__main__ import main
from tests.attack.classes import ATTACKS
from tests.attack.loading import SMALLER
from tests.attack.runner import on_all, report
from tests.attack.tally import Attack, Tally
from tests.kernel.rig import SIZES, Rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    # Floods fill small tables before a slow machine lets the entries that they are about expire.
    made = Rig(tmp_path_factory.mktemp("rig"), "tcx", sizes={**SIZES, **SMALLER})
    yield made
    made.close()


@pytest.mark.kernel
@pytest.mark.parametrize("one", ATTACKS, ids=lambda one: str(one.name))
def test_nothing_gets_through_and_nothing_is_wrongly_denied(rig: Rig, one: Attack) -> None:
    tally = on_all(one, [rig], rounds=1)
    assert tally.attempts
    assert tally.allowed
    assert (tally.got_through, tally.lost) == (0, 0)


@pytest.mark.kernel
def test_the_command_runs_the_chosen_class() -> None:
    done = CliRunner().invoke(main, ["--short", "--only", "lengths"], catch_exceptions=False)
    assert re.search(r"^1 classes, [1-9]\d* attempts, 0 got through, 0 wrongly denied\n\Z", done.output, re.MULTILINE)
    assert done.exit_code == 0


def _attack(name: str) -> Attack:
    return Attack(name, f"the {name}", lambda _: iter(()))


def _report(**tallies: Tally) -> tuple[bool, list[str]]:
    lines: list[str] = []
    passed = report(map(_attack, tallies), lambda one: tallies[one.name], lines.append)
    return passed, lines


def test_the_last_line_sums_up() -> None:
    passed, lines = _report(first=Tally(10, 0, 5, 0), second=Tally(3, 0, 1, 0))
    assert passed
    assert lines == [
        "the first: 10 attempts, 0 got through; 5 allowed, 0 of them lost",
        "the second: 3 attempts, 0 got through; 1 allowed, 0 of them lost",
        "2 classes, 13 attempts, 0 got through, 0 wrongly denied",
    ]


@pytest.mark.parametrize("tally", [Tally(10, 1, 5, 0), Tally(10, 0, 5, 1), Tally()], ids=["through", "lost", "nothing"])
def test_one_that_gets_through_or_is_lost_fails(tally: Tally) -> None:
    passed, lines = _report(good=Tally(10, 0, 5, 0), bad=tally)
    assert not passed
    assert lines[1].startswith("FAILED: the bad:")


def test_a_class_that_cannot_run_fails_and_the_others_run() -> None:
    lines: list[str] = []

    def measure(one: Attack) -> Tally:
        if one.name == "broken":
            raise RuntimeError("no room")
        return Tally(1, 0, 1, 0)

    assert not report(map(_attack, ("broken", "good")), measure, lines.append)
    assert "DID NOT RUN" in lines[0]
    assert "no room" in lines[0]
    assert lines[2:] == ["1 classes did not run", "2 classes, 1 attempts, 0 got through, 0 wrongly denied"]


def test_a_name_that_no_class_has_is_refused() -> None:
    done = CliRunner().invoke(main, ["--only", "none-such"])
    assert done.exit_code == 2
    assert "--list names them" in done.output
