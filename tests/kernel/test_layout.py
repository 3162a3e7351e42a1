"""The kernel's structs and their twins in Python have one shape."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bpf as paths
from enrich.wire.batch import VERDICT, Reason, Verdict
from probe.kernel import bpf, compiler, ends_layout, layout
from tests.kernel.rig import SIZES, Rig

_STRUCTS = {
    "verdict": VERDICT,
    "policy_entry": layout.POLICY_ENTRY,
    "endpoint": layout.ENDPOINT,
    "endpoint_sides": layout.ENDPOINT_SIDES,
    "local": layout.LOCAL,
    "address_key": layout.ADDRESS_KEY,
    "link_address": layout.LINK_ADDRESS,
    "peer": layout.PEER,
    "policy_key": layout.POLICY_KEY,
    "port_key": layout.PORT_KEY,
    "port_entry": layout.PORT_ENTRY,
    "logged_rule": layout.LOGGED_RULE,
    "limit": layout.LIMIT,
    "limited_key": layout.LIMITED_KEY,
    "connection_key": layout.CONNECTION_KEY,
    "connection": layout.CONNECTION,
    "fragment_key": layout.FRAGMENT_KEY,
    "fragment": layout.FRAGMENT,
    "verdict_key": layout.VERDICT_KEY,
    "deny_window": layout.DENY_WINDOW,
    "taken": layout.TAKEN,
    "usage": layout.USAGE,
    "budget": layout.BUDGET,
    "place": layout.PLACE,
    "backend": layout.BACKEND,
    "local_key": layout.LOCAL_KEY,
    "origin": layout.ORIGIN,
    "unknown_flow": layout.UNKNOWN_FLOW,
    "traffic": ends_layout.TRAFFIC,
    "connection_end": ends_layout.END,
}


@pytest.mark.kernel
def test_the_loaded_maps_have_the_sizes_of_the_twins(rig: Rig) -> None:
    for name, wanted in layout.MAPS.items():
        info = bpf.map_info(rig.maps[name].fd)
        assert (name, info.kind, info.key_size, info.value_size) == (
            name, wanted.kind, wanted.key.itemsize, wanted.value.itemsize,
        )  # fmt: skip


_COMPILE = """
import sys
from bcc import BPF
BPF(src_file=sys.argv[1], cflags=sys.argv[2:])
"""


def _compiled(assertions: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """By the compiler that the product uses, with its flags: what it lays out is what the kernel gets."""
    source = folder / "offsets.c"
    source.write_text(f'#include <uapi/linux/bpf.h>\n#include "event.h"\n#include "layout.h"\n{assertions}\n')
    return subprocess.run(
        [sys.executable, "-c", _COMPILE, source, *compiler.flags("/none", {})],
        env={**os.environ, "BCC_KERNEL_SOURCE": str(paths.HEADERS)},
        capture_output=True,
        text=True,
        check=False,
    )


def _assertions() -> str:
    lines = []
    for struct, twin in _STRUCTS.items():
        lines.append(f'_Static_assert(sizeof(struct {struct}) == {twin.itemsize}, "size of {struct}");')
        for field, (kind, offset, *_) in (twin.fields or {}).items():
            place = f"__builtin_offsetof(struct {struct}, {field}) == {offset}"
            size = f"sizeof(((struct {struct} *)0)->{field}) == {kind.itemsize}"
            lines.append(f'_Static_assert({place} && {size}, "{struct}.{field}");')
    return "\n".join(lines)


@pytest.mark.kernel
def test_every_field_stands_where_the_compiler_puts_it(tmp_path: Path) -> None:
    done = _compiled(_assertions(), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.kernel
def test_the_comparison_of_fields_can_fail(tmp_path: Path) -> None:
    done = _compiled('_Static_assert(__builtin_offsetof(struct peer, kind) == 7, "peer.kind");', tmp_path)
    assert done.returncode != 0
    assert "peer.kind" in done.stderr


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


@pytest.mark.kernel
def test_three_capabilities_are_enough_to_compile_to_load_and_to_adopt(pins: Path, tmp_path: Path) -> None:
    """As the container has them: without SYS_ADMIN, by which the kernel would give a map by its id."""
    script = (
        "from pathlib import Path; from probe.kernel.maps import Maps; from probe.kernel.program_cache import "
        f"ProgramCache; Maps.open(Path({str(pins)!r}), {SIZES!r}, cache=ProgramCache(Path({str(tmp_path)!r}))).close()"
    )
    for _ in range(2):
        subprocess.run(
            ["setpriv", "--bounding-set", "-all,+bpf,+net_admin,+perfmon", "--", sys.executable, "-c", script],
            check=True, timeout=120,
        )  # fmt: skip
    assert not (pins / "fresh").exists()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def pins() -> Iterator[Path]:
    """A pin folder of the test's own."""
    folder = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
