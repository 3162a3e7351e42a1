"""The chaos run in its short form, and the account that must be able to fail."""

from __future__ import annotations

import itertools
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.chaos import runner
from tests.chaos.__main__ import main
from tests.chaos.account import Seen, Tail
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.runner import LANES, Pace, Run, sequence
from tests.kafka.health_truth import HealthTruth


@pytest.mark.kafka
@pytest.mark.timeout(1800)
def test_nothing_is_lost_or_wrongly_named_and_health_is_true_under_all_faults() -> None:
    done = CliRunner().invoke(main, ["--short", "--seed", "1"], catch_exceptions=False)
    last = r"^[1-9]\d* faults, [1-9]\d* verdicts, 0 lost, 0 wrong names, 0 s of false health\n\Z"
    assert re.search(last, done.stdout, re.MULTILINE), done.output
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("lane", LANES)
def test_a_seed_repeats_the_faults_and_each_comes_before_one_comes_again(lane: str) -> None:
    def first(seed: int) -> list[tuple[str, float]]:
        return [(one.name, chance.random()) for one, chance in itertools.islice(sequence(seed, lane), 40)]  # type: ignore[arg-type]  # parametrize has plain texts

    assert first(1) == first(1)
    assert first(1) != first(2)
    names = [one.name for one in FAULTS if one.lane == lane]
    assert sorted(name for name, _ in first(1)[: len(names)]) == sorted(names)


def test_every_fault_is_listed_with_what_it_does() -> None:
    listed = CliRunner().invoke(main, ["--list"]).output.splitlines()
    assert len(listed) == len(FAULTS)
    assert all(re.fullmatch(r"\w+ \((brokers|services)\): [A-Z].+\.", line) for line in listed)


def test_ctrl_c_ends_the_faults_and_the_account_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    mended = []

    def harmless(_ground: Any, _chance: random.Random) -> Iterator[str]:
        yield "nothing happens"
        mended.append(True)

    monkeypatch.setattr(runner, "FAULTS", [Fault(lane, lane, harmless) for lane in LANES])
    seen = Seen()
    seen.add("cn1", 0)
    account = SimpleNamespace(
        tails={"file": SimpleNamespace(seen=seen)}, alerts={}, alert_ids=Counter(), dead=set(), broken=None,
        problems=[], truths={}, wrong_names=0, false_losses=0, nameless=0, false_health_s=0.0, stop=lambda: None,
        places=lambda: {"flows": seen, "file": seen}, published=lambda: {"cn1": 1}, expected_alerts=set, missing=dict,
    )  # fmt: skip
    ground: Any = SimpleNamespace(
        account=account, fleet=SimpleNamespace(published=1, problem=None, stop=lambda: None),
        hostile=SimpleNamespace(expected=set()), workers=SimpleNamespace(ready=lambda _role: True),
        brokers=SimpleNamespace(wait_until_complete=lambda: None),
    )  # fmt: skip
    lines: list[str] = []
    started = threading.Event()

    def say(text: str) -> None:
        lines.append(text)
        if "nothing happens" in text:
            started.set()
        if threading.current_thread() is threading.main_thread() and "0 s of false health" in text and len(mended) == 0:
            started.wait(10)
            raise KeyboardInterrupt

    run = Run(ground, 1, Pace(lasts=(60, 60)), say)
    assert run.run(60)
    assert run.stopped
    assert len(mended) == run.made
    assert re.fullmatch(r"[12] faults, 1 verdicts, 0 lost, 0 wrong names, 0 s of false health", lines[-1])


def test_what_is_missing_repeated_and_invented_is_counted_apart(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    tail = Tail(path)
    tail.read()
    lines = [b'{"src":{},"id":"cn1-%d"}\n' % number for number in (0, 2, 2, 5)]
    path.write_bytes(b"".join(lines[:2]) + lines[2][:9])
    tail.read()
    assert tail.seen.distinct == 2
    with path.open("ab") as file:
        file.write(lines[2][9:] + lines[3])
    tail.read()
    assert (tail.seen.distinct, tail.seen.repeats) == (3, 1)
    assert tail.seen.missing({"cn1": 4, "cn2": 1}) == ["cn1-1", "cn1-3", "cn2-0"]
    assert tail.seen.invented({"cn1": 4}) == 1
    assert Seen().missing({"cn1": 1}) == ["cn1-0"]


def observed(*looks: tuple[float, bool, int, int]) -> float:
    """Return the seconds of false health after some looks: time, ready, given, done; 10 s are allowed."""
    truth = HealthTruth(10.0)
    for now, ready, given, done in looks:
        truth.look(now, ready=ready, given=given, done=done)
    return truth.false_s


def test_who_is_stuck_and_ready_or_works_and_is_not_ready_is_not_believed_for_long() -> None:
    stuck = [(float(now), True, 2, 1) for now in range(2, 16)]
    assert observed((0, True, 1, 1), (1, True, 2, 1), *stuck) == pytest.approx(3, abs=1.1)
    assert observed((0, True, 1, 1), (1, True, 2, 1), *((now, False, 2, 1) for now, *_ in stuck)) == 0
    assert observed((0, True, 1, 1), *((float(now), True, 1, 1) for now in range(1, 40))) == 0
    working = [(float(now), False, now, now) for now in range(1, 16)]
    assert observed((0, True, 0, 0), *working) == pytest.approx(4, abs=1.1)
    # Nothing is given and nothing comes, as without Kafka: whether it works is not known.
    assert observed((0, True, 0, 0), (1, False, 1, 1), *((float(now), False, 1, 1) for now in range(2, 60))) == 0
    assert observed((0, True, 0, 0), *((now, True, given, done) for now, _, given, done in working)) == 0
