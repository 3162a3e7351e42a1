"""The file of the interfaces that are left alone, on a disk that takes nothing for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.node.left_interfaces import LeftInterfaces


def fail(_path: Path, _content: bytes) -> None:
    raise OSError(28, "No space left on device")


def test_an_interface_that_is_closed_again_is_in_no_file_although_the_disk_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "left"
    saved = LeftInterfaces(path)
    saved.save({3: "veth3", 4: "veth4"})
    assert LeftInterfaces(path).names == {3: "veth3", 4: "veth4"}
    with monkeypatch.context() as patch:
        patch.setattr("probe.node.left_interfaces.replace_state", fail)
        saved.save({3: "veth3"})
    assert LeftInterfaces(path).names == {}
    saved.save({3: "veth3"})
    assert LeftInterfaces(path).names == {3: "veth3"}
