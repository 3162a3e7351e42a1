"""The lines of `weir observe` about verdicts that limits have cut; no Kafka."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from streams.cli.limited import LimitedLines
from streams.observing.observe import Window
from tests.streams.observing.test_observe import Values

RECORD = {
    "schema": 1, "timestamp": "2026-11-24T16:27:28.838398086Z", "worker": "w", "type": "cut", "by": "limit",
    "class": "allowed", "cluster": "c1", "node": "n1", "ring": "r1", "verdicts": 12034, "total": 1,
    "seconds": 1.004,
}  # fmt: skip


def lines(*changes: dict[str, Any], clusters: tuple[str, ...] = ()) -> list[str]:
    """Return the lines about these records."""
    shown: list[str] = []
    values = [orjson.dumps({**RECORD, "total": number, **change}) for number, change in enumerate(changes)]
    limited = LimitedLines(Values(*values), clusters, shown.append)
    limited.show_past(Window(datetime(2026, 1, 1, tzinfo=UTC)), limited.ends())
    return shown


def test_a_line_says_node_number_class_time_and_setting() -> None:
    assert lines({}) == ["node n1: 12,034 allowed verdicts not logged in 1 s: WEIR_LIMIT_ALLOWED"]
    assert lines({"class": "denied", "seconds": 0.2}) == [
        "node n1: 12,034 denied verdicts not logged: WEIR_LIMIT_DENIED"
    ]


def test_past_records_are_added_up_and_repeats_count_once() -> None:
    repeated = {"total": 7}
    assert lines(repeated, repeated, {}, {"node": "n2", "verdicts": 1}) == [
        "node n1: 24,068 allowed verdicts not logged in 2 s: WEIR_LIMIT_ALLOWED",
        "node n2: 1 allowed verdicts not logged in 1 s: WEIR_LIMIT_ALLOWED",
    ]


def test_a_repeat_is_not_shown_again_as_it_arrives() -> None:
    shown: list[str] = []
    values = Values(*[orjson.dumps({**RECORD, "total": total}) for total in (1, 2, 2, 1, 3)])
    limited = LimitedLines(values, (), shown.append)
    limited.show_past(Window(datetime(2026, 1, 1, tzinfo=UTC)), {0: 2})
    limited.follow_from({0: 2})
    limited.show_new()
    assert shown == [
        "node n1: 24,068 allowed verdicts not logged in 2 s: WEIR_LIMIT_ALLOWED",
        "node n1: 12,034 allowed verdicts not logged in 1 s: WEIR_LIMIT_ALLOWED",
    ]


@pytest.mark.parametrize(
    "change",
    [{"type": "lost"}, {"by": "logging"}, {"class": "x"}, {"verdicts": -1}, {"node": "\x1b[2J"}, {"cluster": "other"}],
)
def test_other_records_are_not_shown(change: dict[str, Any]) -> None:
    assert lines(change, clusters=("c*",)) == []
