"""Records of coverage: what is written is what is read, and nothing else is read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from enrich.wire.pair_coverage import CountedSpan, Coverage, decode_coverage, encode_coverage
from enrich.wire.pair_records import PairRecordError

COVERAGE = Coverage(
    cluster="c1", segment="9e0c", partitions=12, spans=(CountedSpan(3, 1200, 1450, 1_790_000_000, 1_790_000_320),),
    missed=2, missed_since=1_780_000_000, missed_until=1_780_000_001,
)  # fmt: skip


def test_what_is_written_is_read() -> None:
    assert decode_coverage(encode_coverage(COVERAGE)) == COVERAGE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "version 2"),
        ({"cluster": ""}, "Expected"),
        ({"partitions": 10_001}, "Expected"),
        ({"spans": [[3, 5, 4, 1, 1]]}, "ends before it begins"),
        ({"spans": [[3, 5, 5, 2, 1]]}, "ends before it begins"),
        ({"spans": [[10_000, 5, 5, 1, 1]]}, "Expected"),
        ({"spans": [[3, 5, 5, 1, 1 << 33]]}, "Expected"),
        ({"spans": [[3, -1, 5, 1, 1]]}, "Expected"),
        ({"missed_since": 5, "missed_until": 4}, "ends before it begins"),
    ],
)
def test_what_no_worker_writes_is_refused(change: dict[str, Any], why: str) -> None:
    value = msgspec.json.encode({**msgspec.json.decode(encode_coverage(COVERAGE)), **change})

    with pytest.raises(PairRecordError, match=why):
        decode_coverage(value)


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_record_are_refused(value: bytes) -> None:
    with pytest.raises(PairRecordError):
        decode_coverage(value)
