"""Answers are clean and bounded, and say what is missing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from streams.cli.mcp.answers import MAX_BYTES, Records, TooLargeError, clean, fit, size
from streams.cli.mcp.calling import _Lines
from streams.observing.observe import MAX_RECORD_BYTES


def test_what_people_cannot_see_is_shown_and_long_texts_are_cut() -> None:
    assert clean({"a\u200b": ["\x1b[2J", "\U000e0061", "b\u202e", "ä €", 1, None, True]}) == {
        "a\\u200b": ["\\x1b[2J", "\\U000e0061", "b\\u202e", "ä €", 1, None, True]
    }
    assert clean("a" * 2001) == f"{'a' * 2000}... (cut: 2,001 characters)"
    deep: object = "end"
    for _ in range(40):
        deep = [deep]
    assert "cut: too deep" in orjson.dumps(clean(deep)).decode()


@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_what_a_stranger_has_nested_deeply_is_cut(begin: bytes, end: bytes) -> None:
    records = Records(1, keeps_last=True)
    records.add(b'{"id":"ring-1","new":%b1%b}' % (begin * 1000, end * 1000))
    (found,) = records.values
    assert found["id"] == "ring-1"
    assert "cut: too deep" in orjson.dumps(found).decode()


def test_lines_about_cut_lists_have_no_long_names() -> None:
    value: Any = {f"list{number}": list(range(1000)) for number in range(60)}
    for letter in "abcde":
        value = {letter * 3000: value}
    _, cuts = fit(value, 25_000)
    assert len(cuts) == 60
    assert all(len(line) < 600 for line in cuts)


def test_lists_are_cut_until_the_answer_fits() -> None:
    whole: dict[str, Any] = {"sums": {"newly_denied": 3}, "findings": [{"text": "x" * 100, "policies": ["a", "b"]}] * 5}
    assert fit(whole) == (whole, [])
    found, cuts = fit({**whole, "findings": whole["findings"] * 1000})
    assert size(found) <= MAX_BYTES
    assert found["sums"] == {"newly_denied": 3}
    assert cuts == [f"findings: the first {len(found['findings'])} of 5,000"]
    found, cuts = fit({"labels": {f"key{number}": "v" * 100 for number in range(5000)}})
    assert cuts == [f"labels: the first {len(found['labels'])} of 5,000 keys"]
    with pytest.raises(TooLargeError, match="more than 64 KiB: ask for less"):
        fit({f"key{number}": "v" * 2000 for number in range(64)})


def test_records_keep_the_first_or_the_last_by_count_and_by_size() -> None:
    for keeps_last, expected in ((False, [0, 1, 2]), (True, [7, 8, 9])):
        records = Records(3, keeps_last=keeps_last)
        for number in range(10):
            if not records.is_full:
                records.add(b'{"number":%d}' % number)
        assert [one["number"] for one in records.values] == expected
        which = "last" if keeps_last else "first"
        assert list(records.cuts()) == [
            f"only the {which} 3 records are here: narrow the question, or use fields or by"
        ]
    records = Records(100, keeps_last=True, max_bytes=1000)
    for number in range(10):
        records.add(orjson.dumps({"number": number, "text": "x" * 400}))
    assert [one["number"] for one in records.values] == [8, 9]
    records = Records(2, keeps_last=True)
    records.add(orjson.dumps({"policies": list(range(1000))}))
    records.add(b"{}")
    assert list(records.cuts()) == ["lists are cut in 1 of the records"]
    records.add(b"{}")
    assert list(records.cuts()) == ["only the last 2 records are here: narrow the question, or use fields or by"]
    with pytest.raises(ValueError, match="invalid literal"):
        records.add(b"no JSON")


def test_lines_that_are_too_long_are_counted_and_not_kept() -> None:
    lines = _Lines()
    found = list(lines.split(b"a\nb"))
    for _ in range(3):
        found += lines.split(b"x" * MAX_RECORD_BYTES)
    found += lines.split(b"x\nc\n\n")
    assert (found, lines.too_long) == ([b"a", b"c"], 1)
    assert list(lines.split(b"y" * (MAX_RECORD_BYTES + 1) + b"\nd\n")) == [b"d"]
    assert lines.too_long == 2
