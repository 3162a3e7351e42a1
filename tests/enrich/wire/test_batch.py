"""The row and the batch: the kernel's struct and numpy's dtype are the same bytes; what is no batch is refused."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.wire.batch import (
    AGGREGATED,
    INGRESS,
    VERDICT,
    BatchError,
    EndpointRef,
    Header,
    PolicyRef,
    Reason,
    Verdict,
    decode_batch,
    encode_batch,
)

HEADER = Path(__file__).parents[3] / "bpf/event.h"

GOLDEN = bytes.fromhex(
    "0102030405060708"
    "00000000000000000000ffff0a000001"
    "00000000000000000000ffff0a000002"
    "20010db8000000000000000000000003"
    "34127856bb0106120700000008000000090000000a0000000b0000008207ff00"
)


def make_header(**given: Any) -> Header:
    facts: dict[str, Any] = {
        "v": 1, "cluster": "c", "node": "n1", "ring": "9f", "first": 5, "verdicts": 2, "verdict_bytes": 88, "clock": 7,
    }  # fmt: skip
    return Header(**(facts | given))


def make_value(**given: Any) -> bytes:
    header = make_header(**given)
    return encode_batch(header, np.zeros(header.verdicts, VERDICT))


def with_key(value: bytes, **changed: Any) -> bytes:
    head, _, body = value.partition(b"\n")
    return orjson.dumps(orjson.loads(head) | changed) + b"\n" + body


def test_a_row_is_these_bytes() -> None:
    verdict = np.frombuffer(GOLDEN, VERDICT)[0]
    assert len(GOLDEN) == VERDICT.itemsize == 88
    assert verdict["time_ns"] == 0x0807060504030201
    assert bytes(verdict["source"])[12:] == bytes([10, 0, 0, 1])
    assert bytes(verdict["destination"])[12:] == bytes([10, 0, 0, 2])
    assert bytes(verdict["dialled"])[:4] == bytes.fromhex("20010db8")
    names = ("source_port", "destination_port", "dialled_port", "protocol", "tcp_flags")
    assert [verdict[name] for name in names] == [0x1234, 0x5678, 443, 6, 0x12]
    assert [verdict[name] for name in ("endpoint", "identity", "rule", "count", "span_ms")] == [7, 8, 9, 10, 11]
    assert (verdict["verdict"], verdict["reason"], verdict["flags"], verdict["padding"]) == (
        Verdict.DENY | INGRESS,
        7,
        255,
        0,
    )


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to ask it for the struct's layout")
def test_the_kernels_struct_is_the_dtype(tmp_path: Path) -> None:
    assert VERDICT.fields is not None
    fields = VERDICT.fields
    asked = "".join(
        f'printf("{name} %zu %zu\\n", offsetof(struct verdict, {name}), sizeof(((struct verdict *)0)->{name}));'
        for name in fields
    )
    enums = {f"VERDICT_{v.name}": int(v) for v in Verdict} | {f"REASON_{r.name}": int(r) for r in Reason}
    enums |= {"VERDICT_INGRESS": INGRESS, "VERDICT_AGGREGATED": AGGREGATED}
    asked += "".join(f'printf("{name} %d\\n", {name});' for name in enums)
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/types.h>\n"
        f'#include "{HEADER}"\nint main(void) {{ {asked} printf("%zu\\n", sizeof(struct verdict)); return 0; }}\n'
    )
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", tmp_path / "layout", source], check=True)
    told = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout.splitlines()
    expected = [f"{name} {offset} {kind.itemsize}" for name, (kind, offset, *_) in fields.items()]
    expected += [f"{name} {value}" for name, value in enums.items()]
    assert told == [*expected, str(VERDICT.itemsize)]


def test_every_reason_and_verdict_of_the_kernel_has_a_name_here() -> None:
    text = HEADER.read_text()
    assert {f"REASON_{r.name}" for r in Reason} == _words(text, "REASON_")
    assert {f"VERDICT_{v.name}" for v in Verdict} == _words(text, "VERDICT_") - {
        "VERDICT_INGRESS",
        "VERDICT_AGGREGATED",
    }


def _words(text: str, start: str) -> set[str]:
    return {line.split()[0] for line in text.splitlines() if line.startswith(f"\t{start}")}


def test_a_batch_comes_back_as_it_went() -> None:
    header = make_header(
        endpoints={"7": EndpointRef("shop", "web-0", "u")},
        rules={"12": [PolicyRef("NetworkPolicy", "shop", "allow", 0), PolicyRef("NetworkPolicy", "shop", "none")]},
        lost={"ring_full": (1, 17)},
    )
    verdicts = np.zeros(2, VERDICT)
    verdicts["count"] = [3, 4]
    batch = decode_batch(encode_batch(header, verdicts))
    assert batch.header == header
    assert batch.verdicts["count"].tolist() == [3, 4]
    assert batch.numbers().tolist() == [5, 6]


def test_an_empty_batch_is_a_heartbeat() -> None:
    batch = decode_batch(make_value(verdicts=0))
    assert len(batch.verdicts) == len(batch.numbers()) == 0


def test_longer_rows_are_read_as_far_as_they_are_known() -> None:
    verdicts = np.zeros(3, VERDICT)
    verdicts["rule"] = [1, 2, 3]
    longer = b"".join(verdict.tobytes() + b"newer..." for verdict in verdicts)
    value = with_key(make_value(verdicts=0), verdicts=3, verdict_bytes=96) + longer
    assert decode_batch(value).verdicts["rule"].tolist() == [1, 2, 3]
    assert len(decode_batch(with_key(make_value(verdicts=0), verdict_bytes=96)).verdicts) == 0


def test_unknown_header_keys_are_ignored() -> None:
    assert decode_batch(with_key(make_value(), later={"x": [1]})).header == make_header()


def test_a_thinned_batch_numbers_what_it_kept() -> None:
    value = make_value(verdicts=5, first=10, kept=[(10, 2), (20, 3)])
    assert decode_batch(value).numbers().tolist() == [10, 11, 20, 21, 22]
    assert decode_batch(make_value(verdicts=0, kept=[])).numbers().tolist() == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "no_header"),
        (b"{}", "no_header"),
        (b"not json\n", "bad_header"),
        (b"[]\n", "bad_header"),
        (b"\xff\xfe\n", "bad_header"),
        (b"[" * 100_000 + b"\n", "bad_header"),
        (b'{"v":1}\n', "bad_header"),
        (b'{"v":2}\n', "unknown_version"),
        (b'{"v":"new","all":"else"}\n', "unknown_version"),
        (with_key(make_value(), v=2), "unknown_version"),
        (with_key(make_value(), first=-1), "bad_header"),
        (with_key(make_value(), first=(1 << 63) - 2), "bad_header"),
        (with_key(make_value(), verdicts=-1), "bad_header"),
        (with_key(make_value(), verdicts="2"), "bad_header"),
        (with_key(make_value(), verdict_bytes=80), "bad_header"),
        (with_key(make_value(), clock=1 << 63), "bad_header"),
        (with_key(make_value(), kept=[[5, 1]]), "bad_header"),
        (with_key(make_value(), kept=[[5, 10], [20, -8]]), "bad_header"),
        (with_key(make_value(), kept=[[5, 1], [5, 1]]), "bad_header"),
        (with_key(make_value(), kept=[[4, 2]]), "bad_header"),
        (with_key(make_value(), removed=["spool_full", 5, 1]), "bad_header"),
        (with_key(make_value(), removed=["spool_full", 6, 10]), "bad_header"),
        (with_key(make_value(), removed=["spool_full", 5, 1 << 63]), "bad_header"),
        (with_key(make_value(), removed=["Spool full", 5, 2]), "bad_header"),
        (with_key(make_value(), verdicts=3), "wrong_length"),
        (make_value()[:-1], "wrong_length"),
        (make_value() + b"x", "wrong_length"),
    ],
)
def test_what_is_no_batch_is_refused_with_a_reason(value: bytes, reason: str) -> None:
    with pytest.raises(BatchError) as raised:
        decode_batch(value)
    assert raised.value.reason == reason


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_do_worse_than_a_batch_error(tail: bytes) -> None:
    for value in (tail, make_value()[: len(tail)] + tail, orjson.dumps({"v": 1}) + b"\n" + tail):
        with contextlib.suppress(BatchError):
            decode_batch(value)


def test_the_header_as_json_has_the_names_that_are_published() -> None:
    assert set(msgspec.to_builtins(make_header())) == {
        "v", "cluster", "node", "ring", "first", "verdicts", "verdict_bytes", "clock", "endpoints", "rules", "lost",
        "kept", "skew", "cut",
    }  # fmt: skip
