"""Reads the sizes of the generations of maps that are pinned, before this probe has one of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from probe.kernel import bpf, description


class InForce(NamedTuple):
    """A generation that is pinned."""

    sizes: dict[str, int]
    """Empty if they are not known: 0.1.0 made it, or its description is damaged."""
    interfaces: int
    """How many interfaces of pods are in its map."""


def generations_in_force(pins: Path) -> list[InForce]:
    """Return the generations below a folder that were used."""
    folders = sorted(pins.iterdir()) if pins.exists() else []
    return [InForce(_sizes(folder), _interfaces(folder)) for folder in folders if description.was_used(folder)]


def _sizes(folder: Path) -> dict[str, int]:
    with contextlib.suppress(description.UnreadableError):
        return description.read(folder)[1]
    return {}


def _interfaces(folder: Path) -> int:
    with contextlib.suppress(OSError), bpf.closing(bpf.get(folder / "endpoints")) as fd:
        return sum(1 for _ in bpf.keys(fd, bpf.map_info(fd).key_size))
    return 0
