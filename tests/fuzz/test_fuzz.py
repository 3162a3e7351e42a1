"""A few malformed records of each topic, always the same; `make hunt` sends a million of each."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys

import pytest

from tests.fuzz.found import FOUND
from tests.fuzz.mutate import malformed, smaller
from tests.fuzz.run import failure, fuzz
from tests.fuzz.topics import READERS

_RECORDS = 300


@pytest.mark.parametrize("topic", READERS)
def test_a_malformed_record_ends_no_reader_and_is_accounted_for(topic: str) -> None:
    found = fuzz(topic, 1, _RECORDS)
    assert found is None, f"{found.value!r}\n{found.text}"


@pytest.mark.parametrize("topic", READERS)
def test_a_true_record_is_read(topic: str) -> None:
    with contextlib.closing(READERS[topic]()) as reader:
        for value in reader.good:
            assert failure(reader, value) == ""


@pytest.mark.parametrize(("topic", "value"), FOUND)
def test_a_record_that_ended_a_reader_once_ends_none(topic: str, value: bytes) -> None:
    with contextlib.closing(READERS[topic]()) as reader:
        assert failure(reader, value) == ""


def test_the_command_sends_records_of_each_topic_in_a_process_of_its_own() -> None:
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
