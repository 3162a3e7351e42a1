"""Which dead letters may be sent again; no Kafka."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from enrich.wire.topics import topics
from streams.cli.dead_letters import Redriven, letter_of, mark_of, why_not
from streams.kafka.dead_letter_form import headers_of
from streams.kafka.records import Record

TOPICS = topics("k", 4)
PARTITIONS = {TOPICS.raw.name: 4, TOPICS.endpoints.name: 1, "payments": 4, TOPICS.alert_state.name: 4}


def record(offset: int = 0, value: bytes = b"v", headers: Mapping[str, str] | None = None) -> Record:
    given = dict(headers_of(TOPICS.raw.name, 1, 2, "bad_header", "why"))
    given |= {name: text.encode() for name, text in (headers or {}).items()}
    return Record(0, offset, b"k", value, 0, tuple(given.items()))


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, ""),
        ({"topic": "payments"}, "none that records are sent to again"),
        ({"topic": TOPICS.dead.name}, "none that records are sent to again"),
        ({"topic": TOPICS.alert_state.name}, "none that records are sent to again"),
        ({"topic": ""}, "none that records are sent to again"),
        ({"partition": "4"}, "has no partition '4'"),
        ({"partition": "-1"}, "has no partition '-1'"),
        ({"partition": "9" * 5000}, "has no partition '99999999999999999999'"),
        ({"partition": "\u0663"}, "has no partition"),
        ({"original_bytes": "9000000"}, "it was cut"),
        ({"reason": "refused"}, "made from k.verdicts.raw/1/2"),
        ({"reason": "too_large"}, "could not be read, from k.verdicts.raw/1/2 on"),
        ({"reason": "damaged"}, "could not be read, from k.verdicts.raw/1/2 on"),
        ({"topic": TOPICS.endpoints.name, "partition": "0"}, "its key is not known"),
        ({"topic": TOPICS.endpoints.name, "partition": "0", "key": "c/n/ip/uid"}, ""),
    ],
)
def test_what_a_letter_says_is_not_believed(headers: dict[str, str], said: str) -> None:
    why = why_not(letter_of(record(headers=headers)), Redriven(), TOPICS, PARTITIONS, again=False)
    assert said in why
    assert bool(why) is bool(said)


def test_a_mark_ends_a_letter_and_is_remembered_by_the_value() -> None:
    first, same, other = letter_of(record(0)), letter_of(record(1)), letter_of(record(2, b"w"))
    _, headers = mark_of(first)
    redriven = Redriven([letter_of(Record(0, 3, b"", b"", 0, tuple(headers))), same])
    assert "already" in why_not(first, redriven, TOPICS, PARTITIONS, again=True)
    assert "came back" in why_not(same, redriven, TOPICS, PARTITIONS, again=False)
    assert why_not(same, redriven, TOPICS, PARTITIONS, again=True) == ""
    assert why_not(other, redriven, TOPICS, PARTITIONS, again=False) == ""
    assert redriven.state(other) == ""


def test_no_header_writes_to_the_terminal_what_it_obeys() -> None:
    letter = letter_of(record(headers={"error": "\x1b]0;x\x07\n", "reason": "\u202e"}))
    assert letter.headers["error"] == "\\x1b]0;x\\x07\\n"
    assert letter.reason == "\\u202e"
