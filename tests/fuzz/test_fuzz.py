"""A few malformed records of each topic, always the same; `make hunt` sends a million of each."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.fuzz import run as run_module
from tests.fuzz.found import FOUND
from tests.fuzz.mutate import malformed, smaller
from tests.fuzz.reader import Reader
from tests.fuzz.run import PART, Part, failure, fuzz, parts
from tests.fuzz.topics import READERS

_RECORDS = 300


@pytest.mark.parametrize("topic", READERS)
def test_a_malformed_record_ends_no_reader_and_is_accounted_for(topic: str) -> None:
    found = fuzz(Part(topic, 1, 0, _RECORDS))
    assert found is None, f"{found.values!r}\n{found.text}"


@pytest.mark.parametrize("topic", READERS)
def test_a_true_record_is_read(topic: str) -> None:
    with contextlib.closing(READERS[topic]()) as reader:
        for value in reader.good:
            assert failure(reader, value) == ""


@pytest.mark.parametrize(("topic", "values"), FOUND)
def test_a_record_that_ended_a_reader_once_ends_none(topic: str, values: tuple[bytes, ...]) -> None:
    with contextlib.closing(READERS[topic]()) as reader:
        assert failure(reader, *values) == ""


def test_every_record_is_in_one_part_and_all_topics_take_turns() -> None:
    made = list(parts(["a", "b"], 7, 2 * PART + 5))
    assert [(one.topic, one.number, one.records) for one in made] == [
        (topic, number, records) for number, records in ((0, PART), (1, PART), (2, 5)) for topic in ("a", "b")
    ]


def test_records_that_fail_together_only_are_shown_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(Reader):
        good = (b"x", b"y")
        together = 8

        def __call__(self, value: bytes) -> None: ...

        def take(self, values: Sequence[bytes]) -> None:
            assert not {b"x", b"y"} <= {value[:1] for value in values}

    monkeypatch.setattr(run_module, "malformed", lambda _rng, good: good + b"0")
    monkeypatch.setitem(READERS, "pair", Pair)
    found = fuzz(Part("pair", 1, 0, 100))
    assert found is not None
    assert sorted(found.values) == [b"x", b"y"]


def test_the_command_sends_records_of_each_topic() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--records",
        "5",
        "--seed",
        "1",
        "--only",
        "dead",
        "--only",
        "status",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("fuzz: 2 topics, 5 records of each, nothing found\n")


def test_a_seed_gives_the_same_records_and_a_failing_one_becomes_small() -> None:
    good = READERS["verdicts.raw"].good[0]
    first, second = random.Random(5), random.Random(5)  # noqa: S311 - not for secrets
    assert [malformed(first, good) for _ in range(50)] == [malformed(second, good) for _ in range(50)]
    assert smaller(b"abcxdefyghi", lambda one: b"x" in one and b"y" in one) == b"xy"
