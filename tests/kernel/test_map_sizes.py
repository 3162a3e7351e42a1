"""Sizes that were chosen, as the kernel has them: what they take, and whether a restart keeps them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe import sizing
from probe.kernel import bpf
from probe.kernel.layout import ENDPOINT_SIDES
from probe.kernel.sizes_in_force import generations_in_force
from probe.map_sizes import SizeCollector, open_sized_generation, sizes_of
from probe.settings import Settings
from tests import programs
from tests.kernel.rig import Rig
from tests.kernel.test_damaged_generations import damage

pytestmark = pytest.mark.kernel


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    yield Settings(pin_dir=pins, state_dir=tmp_path)
    shutil.rmtree(pins, ignore_errors=True)


def locked(folder: Path) -> dict[str, int]:
    """Return how many bytes the kernel says that each pinned map takes."""
    found = {}
    for pin in folder.iterdir():
        with bpf.closing(bpf.get(pin)) as fd:
            lines = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
        if "map_type" in lines:
            found[pin.name] = int(lines["memlock"])
    return found


def test_the_memory_that_sizes_are_chosen_by_is_what_the_kernel_takes(rig: Rig) -> None:
    maps = locked(rig.maps.folder)
    assert len(maps) > 20
    assert sum(maps.values()) == pytest.approx(sizing.memory_of(rig.sizes), rel=0.1)


def test_the_next_start_finds_the_sizes_and_keeps_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.map_sizes.ProgramCache", lambda _: programs.CACHE)
    generation = open_sized_generation(settings, None)
    made, folder = sizes_of(generation.maps), generation.maps.folder
    assert made["endpoints"] == generation.maps["endpoints"].max_entries == sizing.PODS
    assert made["connections"] == generation.maps["places"].max_entries
    generation.maps["endpoints"].set((7).to_bytes(4, "little"), bytes(ENDPOINT_SIDES.itemsize))
    generation.close()
    [found] = generations_in_force(settings.pin_dir)
    assert {name.lower(): size for name, size in found.sizes.items()} == made
    assert found.interfaces == 1
    # Should a start without the API server assume more pods, it is not another generation.
    monkeypatch.setattr(sizing, "PODS", 4 * sizing.PODS)
    again = open_sized_generation(settings, None)
    assert again.maps.folder == folder
    assert not again.predecessors
    (family,) = SizeCollector(settings, sizes_of(again.maps)).collect()
    reported = {sample.labels["size"]: (sample.value, sample.labels["chosen_by"]) for sample in family.samples}
    assert reported["endpoints"] == (made["endpoints"], "node")
    assert reported["addresses"] == (262_144, "setting")
    again.close()


def test_a_generation_whose_description_cannot_be_read_stops_no_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.map_sizes.ProgramCache", lambda _: programs.CACHE)
    generation = open_sized_generation(settings, None)
    generation.close()
    unreadable = generation.maps.folder.rename(settings.pin_dir / "v0-00000000")
    damage(unreadable, b"damaged")
    again = open_sized_generation(settings, None)
    assert again.maps["endpoints"].max_entries == sizing.PODS
    again.close()
    assert len(generations_in_force(settings.pin_dir)) == 2
    # A probe that is killed while it removes a generation leaves it without its ring.
    (unreadable / "events").unlink()
    assert len(generations_in_force(settings.pin_dir)) == 1
