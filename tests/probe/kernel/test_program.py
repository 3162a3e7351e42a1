"""The maps of the programs, with files in place of bpffs. ``tests/kernel`` has what needs the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probe.kernel import bpf, program
from probe.kernel.bytecode import MapSpec

SPEC = MapSpec(2, 4, 8, 16, 0, is_pinned=True)


@pytest.mark.parametrize("refused", ["map_info", "pin"])
def test_a_map_that_cannot_be_shared_or_pinned_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    opened: list[int] = []

    def get(_path: Path | None = None) -> int:
        opened.append(os.open("/dev/null", os.O_RDONLY))
        return opened[-1]

    def refuse(*_: object) -> None:
        raise PermissionError(1, "bpf(): Operation not permitted")

    monkeypatch.setattr(bpf, "get", get)
    monkeypatch.setattr(bpf, "map_create", lambda *_, **__: get())
    monkeypatch.setattr(bpf, "map_info", lambda _: bpf.MapInfo(2, 1, 4, 8, 16, 0))
    monkeypatch.setattr(bpf, refused, refuse)
    for shared in [tmp_path / "shared"] if refused == "map_info" else [tmp_path / "shared", None]:
        with pytest.raises(PermissionError):
            program._map("config", SPEC, tmp_path / "config", shared, 0)
    assert opened
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
