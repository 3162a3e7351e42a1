"""The records of the topic of pairs: what is written is what is read, and nothing else is read."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.wire.pair import HOUR_NS, PairEnd, PairKey
from enrich.wire.pair_records import (
    CHUNK,
    CountsHeader,
    Names,
    PairRecordError,
    decode_counts,
    decode_names,
    encode_counts,
    encode_names,
    pairs_of,
)
from enrich.wire.references import PolicyRef

WEB = PairEnd(profile="0123456789abcdef", namespace="shop", workload="Deployment/web")
WORLD = PairEnd(block="198.51.100.7/32")
KEYS = (
    PairKey(subject=WEB, peer=WORLD, direction="egress", protocol=6, port=443, verdict="allow", reason="policy",
            policies=(PolicyRef("NetworkPolicy", "shop", "web", 0), PolicyRef("NetworkPolicy", "shop", "web", 1))),
    PairKey(subject=WEB, peer=PairEnd(node="n1"), direction="ingress", protocol=1, port=2048, verdict="deny",
            reason="default_deny", service="shop/api"),
)  # fmt: skip
NAMES = Names(cluster="c1", segment="5f0c", chunk=2, pairs=((KEYS[0], ("r-1", "r-2")), (KEYS[1], ())))
HEADER = CountsHeader(cluster="c1", segment="5f0c", chunk=2, hour=494_971, pairs=2)
COLUMNS = {
    "place": np.array([0, 1]),
    "verdicts": np.array([70_000, 1]),
    "packets": np.array([1 << 40, 2]),
    "first": np.array([0, 3599]),
    "last": np.array([5, 3700]),
}


def test_names_and_counts_make_pairs() -> None:
    names, counts = decode_names(encode_names(NAMES)), decode_counts(encode_counts(HEADER, COLUMNS))

    pairs = pairs_of(names, counts)

    assert [pair.key for pair in pairs] == list(KEYS)
    assert [(pair.verdicts, pair.packets) for pair in pairs] == [(70_000, 1 << 40), (1, 2)]
    assert pairs[0].first_ns == 494_971 * HOUR_NS
    assert pairs[1].last_ns == 494_971 * HOUR_NS + 3700 * 10**9
    assert pairs[0].examples == ("r-1", "r-2")
    assert (pairs[0].cluster, pairs[0].segment, pairs[0].hour) == ("c1", "5f0c", 494_971)


def test_counts_without_a_name_are_left_out() -> None:
    names = msgspec.structs.replace(NAMES, pairs=NAMES.pairs[:1])

    assert [pair.key for pair in pairs_of(names, decode_counts(encode_counts(HEADER, COLUMNS)))] == [KEYS[0]]


@given(st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_columns_come_back_as_they_were(data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, CHUNK - 1), max_size=40)))
    wide = st.lists(st.integers(0, (1 << 63) - 1), min_size=len(places), max_size=len(places))
    firsts = data.draw(st.lists(st.integers(0, 3599), min_size=len(places), max_size=len(places)))
    columns = {
        "place": np.array(places, "u2"),
        "verdicts": np.array(data.draw(wide), "u8"),
        "packets": np.array(data.draw(wide), "u8"),
        "first": np.array(firsts, "u2"),
        "last": np.array([first + 7 for first in firsts], "u2"),
    }
    header = msgspec.structs.replace(HEADER, pairs=len(places))

    found = decode_counts(encode_counts(header, columns))

    assert found.header == header
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        name: column.tolist() for name, column in columns.items()
    }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"place": np.array([1, 0])}, "ascend"),
        ({"place": np.array([0, CHUNK])}, "ascend"),
        ({"verdicts": np.array([1, 1 << 63], "u8")}, "out of range"),
        ({"first": np.array([0, 3600])}, "not in its hour"),
        ({"first": np.array([6, 0])}, "later than"),
    ],
)
def test_counts_that_no_worker_writes_are_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(PairRecordError, match=why):
        decode_counts(encode_counts(HEADER, {**COLUMNS, **change}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "version 2"),
        ({"hour": 1 << 21}, "Expected"),
        ({"pairs": CHUNK + 1}, "Expected"),
        ({"pairs": 1}, "bytes of counts"),
        ({"cluster": "c 1"}, "Expected"),
    ],
)
def test_a_header_that_no_worker_writes_is_refused(change: dict[str, Any], why: str) -> None:
    header, _, body = encode_counts(HEADER, COLUMNS).partition(b"\n")
    value = msgspec.json.encode({**msgspec.json.decode(header), **change}) + b"\n" + body

    with pytest.raises(PairRecordError, match=why):
        decode_counts(value)


def _with(at: int, value: Any) -> list[Any]:
    pair: list[Any] = msgspec.json.decode(encode_names(NAMES))["pairs"][0]
    return [value if place == at else one for place, one in enumerate(pair)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 7, "pairs": 3}, "version 7"),
        ({"pairs": [_with(0, 9)]}, "does not have"),
        ({"pairs": [_with(7, 9)]}, "does not have"),
        ({"pairs": [_with(2, "sideways")]}, "Invalid enum"),
        ({"pairs": [_with(8, "shop/../api")]}, "Expected"),
        ({"pairs": [_with(9, ["a", "b", "c", "d"])]}, "Expected"),
        ({"ends": [{"profile": "x"}, {}, {}]}, "Expected"),
        ({"ends": [{"block": "0.0.0.0/0; drop"}, {}, {}]}, "Expected"),
        ({"ends": [{"block": "198.51.100.7/33"}, {}, {}]}, "198.51.100.7/33"),
        ({"ends": [{"block": "198.51.100.7/24"}, {}, {}]}, "has host bits set"),
        ({"chunk": -1}, "Expected"),
    ],
)
def test_names_that_no_worker_writes_are_refused(change: dict[str, Any], why: str) -> None:
    value = msgspec.json.encode({**msgspec.json.decode(encode_names(NAMES)), **change})

    with pytest.raises(PairRecordError, match=why):
        decode_names(value)


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b"{}\n"])
def test_bytes_that_are_no_record_are_refused(value: bytes) -> None:
    with pytest.raises(PairRecordError):
        decode_names(value)
    with pytest.raises(PairRecordError):
        decode_counts(value)
