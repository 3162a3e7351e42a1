"""Sends malformed records to the readers of one topic."""

from __future__ import annotations

import contextlib
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import structlog

from tests.fuzz.mutate import malformed, smaller
from tests.fuzz.reader import Reader
from tests.fuzz.topics import READERS

_QUIET: Final = 50
PART: Final = 10_000
"""Records of a topic that are sent to the same readers; a process takes one such part after the other."""


class Failure(NamedTuple):
    """Records that a reader does not take as it should: one, unless it takes several together."""

    topic: str
    values: tuple[bytes, ...]
    text: str
    """The traceback."""


class Part(NamedTuple):
    """Some of the records of a topic. The same seed and number give the same records."""

    topic: str
    seed: int
    number: int
    records: int


def parts(topics: Sequence[str], seed: int, records: int) -> Iterator[Part]:
    """Yield the parts of all topics in turn, so that a run that is stopped has sent about as many to each."""
    for number in range(-(-records // PART)):
        for topic in topics:
            yield Part(topic, seed, number, min(PART, records - number * PART))


def failure(reader: Reader, *values: bytes) -> str:
    """Return what goes wrong with records, empty if nothing does."""
    try:
        reader.take(values)
    except Exception:
        return traceback.format_exc()
    return ""


def fuzz(part: Part) -> Failure | None:
    """Send malformed records to the readers of a topic; return the first that fail, as small as they get."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_QUIET))
    rng = random.Random(f"{part.seed}/{part.topic}/{part.number}")  # noqa: S311 - a seed must give the same records
    made = READERS[part.topic]
    with contextlib.closing(made()) as reader:
        for done in range(0, part.records, made.together):
            number = min(made.together, part.records - done)
            values = tuple(malformed(rng, rng.choice(made.good)) for _ in range(number))
            text = failure(reader, *values)
            if text:
                return _smallest(part.topic, values, text)
    return None


def _smallest(topic: str, values: tuple[bytes, ...], text: str) -> Failure:
    def found(*some: bytes) -> str:
        with contextlib.closing(READERS[topic]()) as reader:
            return failure(reader, *some)

    def fails(*some: bytes) -> bool:
        return _last(found(*some)) == _last(text)

    for value in values:
        without = tuple(one for one in values if one is not value)
        if without and fails(*without):
            values = without
    for at, value in enumerate(values):
        values = (*values[:at], smaller(value, _among(fails, values, at)), *values[at + 1 :])
    return Failure(topic, values, found(*values) or text)


def _among(fails: Callable[..., bool], values: tuple[bytes, ...], at: int) -> Callable[[bytes], bool]:
    """Return a function that says whether the records still fail with another record in this place."""
    return lambda one: fails(*values[:at], one, *values[at + 1 :])


def _last(text: str) -> str:
    """Return the kind of the error in a traceback."""
    return text.strip().rpartition("\n")[2].partition(":")[0]


def run(part: Part) -> tuple[Part, Failure | None]:
    """Do what :func:`fuzz` does, and return the part too."""
    return part, fuzz(part)
