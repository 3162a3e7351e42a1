"""Sends malformed records to the readers of one topic."""

from __future__ import annotations

import contextlib
import random
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from tests.fuzz.mutate import malformed, smaller
from tests.fuzz.topics import READERS

_REPORT_S: Final = 20.0
_QUIET: Final = 50


class Failure(NamedTuple):
    """A record that a reader does not take as it should."""

    topic: str
    value: bytes
    text: str
    """The traceback."""


def failure(reader: Callable[[bytes], None], value: bytes) -> str:
    """Return what goes wrong with a record, empty if nothing does."""
    try:
        reader(value)
    except Exception:
        return traceback.format_exc()
    return ""


def fuzz(topic: str, seed: int, records: int, say: Callable[[str], Any] = lambda _: None) -> Failure | None:
    """Send malformed records to the readers of a topic; return the first that fails, as small as it gets."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_QUIET))
    rng = random.Random(f"{seed}/{topic}")  # noqa: S311 - a seed must give the same records
    began = reported = time.monotonic()
    with contextlib.closing(READERS[topic]()) as reader:
        for number in range(records):
            value = malformed(rng, rng.choice(reader.good))
            text = failure(reader, value)
            if text:
                return _smallest(topic, value, text)
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                say(f"fuzz: {topic}: {number + 1:,} records, {(number + 1) / (reported - began):,.0f} a second")
    say(f"fuzz: {topic}: {records:,} records, nothing found, {records / (time.monotonic() - began):,.0f} a second")
    return None


def _smallest(topic: str, value: bytes, text: str) -> Failure:
    def found(one: bytes) -> str:
        with contextlib.closing(READERS[topic]()) as reader:
            return failure(reader, one)

    small = smaller(value, lambda one: _last(found(one)) == _last(text))
    return Failure(topic, small, found(small) or text)


def _last(text: str) -> str:
    """Return the kind of the error in a traceback."""
    return text.strip().rpartition("\n")[2].partition(":")[0]


def run(job: tuple[str, int, int]) -> Failure | None:
    """Do what :func:`fuzz` does with a topic, a seed and a number of records, and print how far it is."""
    return fuzz(*job, say=lambda text: print(text, flush=True))
