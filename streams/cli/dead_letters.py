"""What a dead letter says, and whether it may be sent again: pure functions of the records of the dead-letter topic.

A letter that is sent again leaves a mark on the dead-letter topic: a record of the reason ``redriven`` without a value,
whose headers name the letter and the hash of its value. So nothing is sent twice by mistake, and a letter that comes
back is known by its value, whichever service wrote it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from enrich.wire.topics import Topics
from streams.cli.terminal import printable
from streams.kafka.dead_letter_form import Headers
from streams.kafka.records import Record

REDRIVEN: Final = "redriven"
"""The reason of a mark, and the header of a record that was sent again: how many times, with this one."""
_OUTPUT_REASON: Final = "refused"
_UNREAD_REASONS: Final = frozenset({"too_large", "damaged"})
"""Letters without a value, if nothing was cut: they stand for records that were passed over."""
_MAX_DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    partition: int
    offset: int
    timestamp_ms: int
    headers: Mapping[str, str]
    """What a terminal would obey is escaped: anybody who may write to the topic can write anything."""
    value: bytes = field(repr=False)
    key: bytes | None
    """The key of the record that it was, if the letter has it."""

    @property
    def id(self) -> str:
        """PARTITION/OFFSET on the dead-letter topic."""
        return f"{self.partition}/{self.offset}"

    @property
    def reason(self) -> str:
        """Why it is here, in one word; empty if it does not say so."""
        return self.headers.get("reason", "")

    @property
    def topic(self) -> str:
        """The topic that it was read from."""
        return self.headers.get("topic", "")

    @property
    def output(self) -> str:
        """The consumer group of the sink, or the topic, that has refused it; empty if none was asked."""
        return self.headers.get("output", "")

    @property
    def origin(self) -> str:
        """TOPIC/PARTITION/OFFSET of the record that it was."""
        return "/".join(self.headers.get(name, "?") for name in ("topic", "partition", "offset"))

    @property
    def sha256(self) -> str:
        """The hash of its value."""
        return hashlib.sha256(self.value).hexdigest()

    @property
    def is_mark(self) -> bool:
        """Whether it is no letter, but says that one was sent again."""
        return self.reason == REDRIVEN


def letter_of(record: Record) -> Letter:
    """Read a record of the dead-letter topic."""
    headers = {printable(name): printable((value or b"").decode(errors="replace")) for name, value in record.headers}
    key = next((value for name, value in record.headers if name == "key"), None)
    return Letter(record.partition, record.offset, record.timestamp_ms, headers, record.value, key)


class Redriven:
    """Which letters were sent again, by the marks on the topic."""

    def __init__(self, letters: Iterable[Letter] = ()) -> None:
        self._letters: set[str] = set()
        self._values: Counter[str] = Counter()
        for letter in letters:
            if letter.is_mark:
                self.add(letter.headers.get("letter", ""), letter.headers.get("sha256", ""))

    def add(self, letter_id: str, sha256: str) -> None:
        """Note that a letter was sent again."""
        self._letters.add(letter_id)
        self._values[sha256] += 1

    def has(self, letter: Letter) -> bool:
        """Return whether this letter was sent again."""
        return letter.id in self._letters

    def times(self, letter: Letter) -> int:
        """Return how often a letter with this value was sent again."""
        return self._values[letter.sha256]

    def state(self, letter: Letter) -> str:
        """Return what has become of a letter, in a few words; empty if nothing has."""
        if self.has(letter):
            return "sent again"
        times = self.times(letter)
        return f"came back after it was sent again {'once' if times == 1 else f'{times} times'}" if times else ""


def why_not(letter: Letter, redriven: Redriven, topics: Topics, partitions: Mapping[str, int], again: bool) -> str:
    """Return why a letter is not to be sent again; empty if it is. ``partitions``: how many the topics have."""
    if redriven.has(letter):
        return "it was sent again already"
    if redriven.times(letter) and not again:
        return "it came back after it was sent again: mend the cause, then give --again"
    # Anybody who may write to the dead-letter topic chooses the headers; they must not choose any topic of the broker.
    allowed = {
        one.name for one in (topics.raw, topics.flows, topics.denied, topics.ended, topics.status, topics.endpoints)
    }
    if letter.topic not in allowed:
        return f"its topic {letter.topic!r} is none that records are sent to again"
    partition = letter.headers.get("partition", "")
    number = int(partition) if partition.isascii() and partition.isdigit() and len(partition) <= _MAX_DIGITS else -1
    if not 0 <= number < partitions.get(letter.topic, 0):
        return f"{letter.topic} has no partition {partition[:20]!r}"
    if "original_bytes" in letter.headers:
        return f"it was cut: only the record at {letter.origin} is whole, for as long as its topic keeps it"
    if letter.reason in _UNREAD_REASONS:
        return f"it only says what could not be read, from {letter.origin} on"
    if letter.reason == _OUTPUT_REASON:
        return f"it is a record that was made from {letter.origin}, and not that record"
    if letter.topic == topics.endpoints.name and letter.key is None:
        return "its key is not known, and its topic is compacted by keys"
    return ""


def redriven_headers(letter: Letter, redriven: Redriven, topic: str) -> Headers:
    """Return the headers of the record that is sent again; ``topic`` is the dead-letter topic."""
    times = str(redriven.times(letter) + 1)
    return [(REDRIVEN, times.encode()), ("redriven_from", f"{topic}/{letter.id}".encode())]


def mark_of(letter: Letter) -> tuple[bytes, Headers]:
    """Return key and headers of the mark that a letter was sent again."""
    texts = {"reason": REDRIVEN, "letter": letter.id, "sha256": letter.sha256, "topic": letter.topic}
    return f"{REDRIVEN}/{letter.id}".encode(), [(name, text.encode()) for name, text in texts.items()]
