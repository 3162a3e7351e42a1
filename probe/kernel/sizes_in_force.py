"""Reads the sizes of the generations of maps that are pinned, before this probe has one of its own."""

from __future__ import annotations

from pathlib import Path

from probe.kernel import description


def sizes_in_force(pins: Path) -> dict[str, int]:
    """Return the sizes of the generations below a folder; of more than one, the largest. Empty: none says its sizes."""
    found: dict[str, int] = {}
    for folder in sorted(pins.iterdir()) if pins.exists() else ():
        # The programs are pinned last: a generation without them was never used.
        if (folder / "close_windows").exists():
            for name, size in description.read(folder)[1].items():
                found[name] = max(found.get(name, 0), size)
    return found
