"""The parts of a record's text: equal parts mean equal records, but for source port, count, times and number."""

from __future__ import annotations

import msgspec
import pytest

from enrich.policy.decide import Decision
from enrich.wire.batch import Reason, Verdict
from enrich.wire.flow import decode_flow
from enrich.wire.flow_text import nanoseconds, part_flow, time_text
from tests.enrich.history.flows_of_worlds import flow_of
from tests.enrich.history.test_verifying import DENIED, PODS, QUERY

VALUE = msgspec.json.encode(DENIED)


def test_records_that_differ_in_port_count_times_and_number_have_one_text() -> None:
    other = flow_of(PODS, QUERY, Decision(Verdict.DENY, Reason.DEFAULT_DENY), 77.25, number=4711)
    other = msgspec.structs.replace(DENIED, **{
        name: getattr(other, name) for name in ("connection", "timestamp", "last_timestamp", "id")
    }, count=12)  # fmt: skip
    first, second = part_flow(VALUE), part_flow(msgspec.json.encode(other))
    assert first is not None
    assert second is not None
    assert first.repeating == second.repeating
    assert (first.number, second.number) == (b"1", b"4711")
    assert nanoseconds(second.time) - nanoseconds(first.time) == 77_250_000_000
    assert time_text(nanoseconds(second.time)) == second.time == second.last_time


@pytest.mark.parametrize("name", ["disposition", "reason", "node_name", "cluster"])
def test_what_matters_is_in_the_text(name: str) -> None:
    first, second = part_flow(VALUE), part_flow(msgspec.json.encode(msgspec.structs.replace(DENIED, **{name: "x"})))
    assert first is not None
    assert second is not None
    assert first.repeating != second.repeating


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"count":1', b'"count": 1'), (b'"count":1', b'"count":-1'), (b'"count":1', b'"count":1e3'),
        (b'Z","last_timestamp', b'","last_timestamp'), (b'"id":"ring-1"', b'"id":"ring"'),
        (b'"id":"ring-1"', b'"id":"ring-x"'), (b'"id":"ring-1"', b'"id":"-"'),
        (b'"timestamp":"20', b'"timestamp":"\\"'), (b'"timestamp":"20', b'"timestamp":"""'),
        (VALUE, b""), (VALUE, b"null"),
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_not_parted(old: bytes, new: bytes) -> None:
    assert old in VALUE
    assert part_flow(VALUE.replace(old, new)) is None


def test_a_source_port_that_is_no_number_stays_in_the_text() -> None:
    value = VALUE.replace(b'"src_port":40001', b'"src_port":"x"')
    parts = part_flow(value)
    assert parts is not None
    assert b'"src_port":"x"' in parts.repeating


def test_a_key_in_a_string_is_not_taken_for_one() -> None:
    """What quotes are escaped in a label, so that nothing of it is cut out."""
    hostile = {"app": '","src_port":1,"count":2,"id":"a-3"'}
    flow = msgspec.structs.replace(DENIED, src=msgspec.structs.replace(DENIED.src, labels=hostile))
    value = msgspec.json.encode(flow)
    parts = part_flow(value)
    assert parts is not None
    assert b'src_port\\":1,\\"count\\":2,\\"id\\":\\"a-3' in parts.repeating
    assert decode_flow(value) == flow


def test_the_last_time_has_a_text() -> None:
    assert time_text((1 << 62) - 1).startswith(b"2116-")
    with pytest.raises(ValueError, match="month"):
        nanoseconds(b"2026-13-01T00:00:00.000000000")


@pytest.mark.parametrize("text", [b"2026-11-29 19:00:00.000000000", b"2026-11-29T19:00:00.00000000_", b"\xff"])
def test_a_time_of_another_form_is_refused(text: bytes) -> None:
    """It would not sort as its time does."""
    with pytest.raises(ValueError, match=r"time|literal|decode"):
        nanoseconds(text)
