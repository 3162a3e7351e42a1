"""The kernel's structs and their twins in Python have one shape."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import bpf as paths
from enrich.records import VERDICT, Reason, Verdict
from probe.kernel import bpf, layout
from tests.kernel.rig import Rig

_STRUCTS = {
    "verdict": VERDICT,
    "row": layout.ROW,
    "endpoint": layout.ENDPOINT,
    "address_key": layout.ADDRESS_KEY,
    "peer": layout.PEER,
    "row_key": layout.ROW_KEY,
    "answer": layout.ANSWER,
    "flow_key": layout.FLOW_KEY,
    "flow": layout.FLOW,
    "fragment_key": layout.FRAGMENT_KEY,
    "window_key": layout.WINDOW_KEY,
    "window": layout.WINDOW,
    "budget": layout.BUDGET,
}


@pytest.mark.kernel
def test_the_loaded_maps_have_the_sizes_of_the_twins(rig: Rig) -> None:
    for name, wanted in layout.MAPS.items():
        info = bpf.map_info(rig.maps[name].fd)
        assert (name, info.kind, info.key_size, info.value_size) == (
            name, wanted.kind, wanted.key.itemsize, wanted.value.itemsize,
        )  # fmt: skip


def test_every_field_stands_where_the_compiler_puts_it(tmp_path: Path) -> None:
    """Field by field, by the C compiler's own offsetof."""
    lines = [
        f'printf("{struct}.{field} %zu\\n", offsetof(struct {struct}, {field}));'
        for struct, twin in _STRUCTS.items()
        for field in twin.names or ()
        if struct != "port_key"
    ]
    source = tmp_path / "offsets.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/types.h>\n"
        "typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64;\n"
        '#include "event.h"\n#include "layout.h"\nint main(void) {' + "\n".join(lines) + "}"
    )
    program = tmp_path / "offsets"
    subprocess.run(["gcc", f"-I{paths.ROOT}", "-o", program, source], check=True)
    told = dict(
        line.split()
        for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    )
    twins = {
        f"{struct}.{field}": str((twin.fields or {})[field][1])
        for struct, twin in _STRUCTS.items()
        for field in twin.names or ()
    }
    assert told == twins


def test_the_golden_bytes_of_a_verdict() -> None:
    row = np.zeros(1, VERDICT)
    row["time_ns"], row["source_port"], row["destination_port"], row["dialled_port"] = (
        0x0102030405060708,
        0x1112,
        0x1314,
        0x1516,
    )
    row["source"], row["destination"], row["dialled"] = (np.arange(start, start + 16) for start in (0x20, 0x40, 0x60))
    row["protocol"], row["tcp_flags"], row["endpoint"], row["identity"] = 6, 2, 0x21222324, 0x25262728
    row["rule"], row["count"], row["span_ms"] = 0x31323334, 0x35363738, 0x41424344
    row["verdict"], row["reason"], row["flags"] = 0x82, 3, 1
    assert row.tobytes().hex() == (
        "0807060504030201"
        "202122232425262728292a2b2c2d2e2f"
        "404142434445464748494a4b4c4d4e4f"
        "606162636465666768696a6b6c6d6e6f"
        "12111413161506022423222128272625343332313837363544434241"
        "82030100"
    )


def test_the_numbers_of_verdicts_and_reasons_are_the_headers() -> None:
    text = (paths.ROOT / "event.h").read_text()
    for kind in Verdict:
        assert f"VERDICT_{kind.name} = {kind}," in text
    for reason in Reason:
        assert f"REASON_{reason.name} = {reason}," in text
    assert text.count("\tREASON_") == len(Reason)
