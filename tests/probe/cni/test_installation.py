"""The plugin in the node's folders: put in whole or not at all, put in again, and taken out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe.cni.installation import Installation, InstallationError, Places
from tests.waiting import until

LIST: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "ptp"}]}
SETTINGS = {"wait": 10}
OURS = {"type": "weir-cni", "wait": 10}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    (tmp_path / "conf").mkdir()
    return Places(program, tmp_path / "bin", tmp_path / "conf")


@pytest.fixture
def plugin(places: Places) -> Iterator[Installation]:
    made = Installation(places, SETTINGS)
    yield made
    made.stop()


def write(places: Places, name: str = "10-net.conflist", config: object = None) -> Path:
    file = places.conf_dir / name
    file.write_text(json.dumps(LIST if config is None else config))
    return file


def types(file: Path) -> list[str]:
    return [one["type"] for one in json.loads(file.read_text())["plugins"]]


def test_the_first_configuration_by_name_gets_the_plugin_and_keeps_its_mode(
    places: Places, plugin: Installation
) -> None:
    other, first = write(places, "20-other.conflist"), write(places)
    write(places, "05-notes.txt")
    first.chmod(0o640)
    plugin.install()
    assert types(first) == ["ptp", "weir-cni"]
    assert types(other) == ["ptp"]
    assert first.stat().st_mode & 0o777 == 0o640
    assert os.access(places.bin_dir / "weir-cni", os.X_OK)
    assert {path.name for path in places.conf_dir.iterdir()} == {first.name, other.name, "05-notes.txt"}


def test_the_configuration_of_another_datapath_is_left_alone(places: Places, plugin: Installation) -> None:
    first = write(places, config={"name": "gke", "plugins": [{"type": "ptp"}, {"type": "cilium-cni"}]})
    write(places, "20-other.conflist")
    with pytest.raises(InstallationError, match=r"10-net\.conflist: it is of Cilium, which carries packets past"):
        plugin.install()
    assert types(first) == ["ptp", "cilium-cni"]


def test_installing_again_writes_nothing(places: Places, plugin: Installation) -> None:
    file = write(places)
    plugin.install()
    before = file.stat().st_ino, (places.bin_dir / "weir-cni").stat().st_ino
    plugin.install()
    assert (file.stat().st_ino, (places.bin_dir / "weir-cni").stat().st_ino) == before


def test_a_new_version_replaces_the_program(places: Places, plugin: Installation) -> None:
    write(places)
    plugin.install()
    places.program.write_bytes(b"\x7fELF2")
    plugin.install()
    assert (places.bin_dir / "weir-cni").read_bytes() == b"\x7fELF2"


def test_a_write_that_fails_leaves_the_configuration_as_it_was(
    places: Places, plugin: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(places)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (places.bin_dir).mkdir()
    (places.bin_dir / "weir-cni").write_bytes(places.program.read_bytes())
    (places.bin_dir / "weir-cni").chmod(0o755)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InstallationError, match="No space left"):
        plugin.install()
    assert types(file) == ["ptp"]
    assert [path.name for path in places.conf_dir.iterdir()] == [file.name]


def test_without_the_program_the_configuration_does_not_name_it(places: Places, plugin: Installation) -> None:
    """A runtime that does not find the program of a plugin starts no pod."""
    file = write(places)
    plugin.install()
    (places.bin_dir / "weir-cni").unlink()
    places.program.unlink()
    with pytest.raises(InstallationError, match="WEIR_CNI_BIN_DIR"):
        plugin.install()
    assert types(file) == ["ptp"]


def test_a_folder_without_configuration_is_waited_for(places: Places, plugin: Installation) -> None:
    plugin.keep()
    assert plugin.problem is not None
    assert "has no configuration yet" in plugin.problem
    file = write(places)
    until(lambda: plugin.problem is None)
    assert types(file) == ["ptp", "weir-cni"]


def test_a_file_that_another_writes_again_gets_the_plugin_again(places: Places, plugin: Installation) -> None:
    file = write(places)
    plugin.keep()
    for version in ("0.3.1", "0.4.0"):
        new = places.conf_dir / "new.tmp"
        new.write_text(json.dumps({**LIST, "cniVersion": version}))
        new.replace(file)
        until(lambda: types(file) == ["ptp", "weir-cni"])
        assert json.loads(file.read_text())["cniVersion"] == version


def test_a_broken_file_is_reported_and_not_touched(places: Places, plugin: Installation) -> None:
    file = write(places)
    file.write_text('{"name": "net", "plu')
    plugin.keep()
    assert "it is not JSON" in str(plugin.problem)
    assert file.read_text() == '{"name": "net", "plu'


@pytest.mark.parametrize("name", ["10-net.conf", "10-net.json"])
def test_a_file_of_one_plugin_gets_a_conflist_that_comes_before_it(
    places: Places, plugin: Installation, name: str
) -> None:
    single = write(places, name, {"cniVersion": "1.0.0", "name": "net", "type": "ptp"})
    write(places, "20-other.conflist")
    before = single.read_text()
    plugin.install()
    plugin.install()
    first = min(places.conf_dir.iterdir())
    assert types(first) == ["ptp", "weir-cni"]
    assert single.read_text() == before
    # Its owner changes it: the conflist follows.
    write(places, name, {"cniVersion": "1.0.0", "name": "net", "type": "bridge"})
    plugin.install()
    assert types(first) == ["bridge", "weir-cni"]
    # Its owner removes it: the conflist goes too, and the next file counts.
    single.unlink()
    plugin.install()
    assert not first.exists()
    assert types(places.conf_dir / "20-other.conflist") == ["ptp", "weir-cni"]


def test_a_removal_takes_it_out_of_every_file_and_removes_the_program_last(
    places: Places, plugin: Installation
) -> None:
    single = write(places, "10-net.conf", {"cniVersion": "1.0.0", "name": "net", "type": "ptp"})
    second = write(places, "20-other.conflist", {**LIST, "plugins": [{"type": "bridge"}, OURS]})
    plugin.install()
    assert plugin.remove()
    assert sorted(places.conf_dir.iterdir()) == [single, second]
    assert types(second) == ["bridge"]
    assert not (places.bin_dir / "weir-cni").exists()
    assert not plugin.remove()


def test_a_removal_where_nothing_was_installed_is_no_error(tmp_path: Path) -> None:
    assert not Installation(Places(tmp_path / "program", tmp_path / "bin", tmp_path / "conf"), SETTINGS).remove()


def test_after_a_removal_nothing_is_put_in_again(places: Places, plugin: Installation) -> None:
    file = write(places)
    plugin.keep()
    plugin.remove()
    plugin._check()
    assert types(file) == ["ptp"]
