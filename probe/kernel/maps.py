"""The pinned maps as arrays: what user space reads and writes of the kernel's state."""

from __future__ import annotations

import functools
import itertools
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from probe.kernel import bpf, program
from probe.kernel.layout import CHUNKS, LOST, MAPS, RINGBUF, Array, Config, Counter, MapLayout


class LayoutError(RuntimeError):
    """What is pinned is not of this version; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Map:
    """A map with keys and values as numpy scalars. ``fd`` is owned by :class:`Maps`."""

    name: str
    fd: int
    layout: MapLayout
    max_entries: int

    def get(self, key: bytes) -> Array | None:
        """The value of a key as a zero-dimensional array, None where there is none."""
        raw = bpf.lookup(self.fd, key, self.layout.value.itemsize)
        return None if raw is None else np.frombuffer(raw, self.layout.value)[0]

    def set(self, key: bytes, value: bytes, flags: int = bpf.ANY) -> None:
        """Write one entry. Raises OSError: E2BIG where the map is full."""
        bpf.update(self.fd, key, value, flags)

    def drop(self, key: bytes) -> None:
        """Remove one entry, if it is there."""
        bpf.delete(self.fd, key)

    def items(self) -> dict[bytes, bytes]:
        """All of it. For maps that only user space writes: others change meanwhile."""
        size = self.layout.value.itemsize
        found = ((key, bpf.lookup(self.fd, key, size)) for key in bpf.keys(self.fd, self.layout.key.itemsize))
        return {key: value for key, value in found if value is not None}

    def entries(self) -> tuple[Array, Array]:
        """Keys and values of a hash as two arrays of equal length."""
        runs = list(bpf.entries_of_hash(self.fd, self.layout.key.itemsize, self.layout.value.itemsize))
        keys = np.frombuffer(b"".join(run[0] for run in runs), self.layout.key)
        return keys, np.frombuffer(b"".join(run[1] for run in runs), self.layout.value)


class Maps:
    """All maps below a pin folder. Making one builds what is missing and adopts what is there."""

    def __init__(self, folder: Path, maps: Mapping[str, Map], ring: int, programs: Mapping[str, int]) -> None:
        self.folder = folder
        self.ring = ring
        self.programs = programs
        self._maps = maps

    @classmethod
    def open(cls, folder: Path, sizes: Mapping[str, int]) -> Self:
        """Compile and load the programs, make or adopt the maps. ``sizes`` as in ``policy.c``.

        Raises LayoutError, program.LoadError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _check(folder)
        program.build(folder, {**sizes, **_adopted_sizes(folder), "CPU_STRIDE": cpu_stride(_possible_cpus())})
        maps = {name: _open(folder, name, layout) for name, layout in MAPS.items()}
        programs = {name: bpf.get(folder / f"new_{name}") for name in program.PROGRAMS}
        for name in programs:
            (folder / f"new_{name}").rename(folder / name)
        opened = cls(folder, maps, bpf.get(folder / "events"), programs)
        if not opened.config(Config.RING_ID):
            opened.configure(Config.RING_ID, secrets.randbits(63) | 1)
        return opened

    def __getitem__(self, name: str) -> Map:
        return self._maps[name]

    @property
    def ring_id(self) -> str:
        """The ring's random id, 16 hexadecimal digits."""
        return f"{self.config(Config.RING_ID):016x}"

    def config(self, word: Config) -> int:
        """One word of ``config``."""
        raw = bpf.lookup(self["config"].fd, int(word).to_bytes(4, "little"), 8)
        return int.from_bytes(raw or b"", "little")

    def configure(self, word: Config, value: int) -> None:
        """Write one word of ``config``; programs see it whole."""
        self["config"].set(int(word).to_bytes(4, "little"), value.to_bytes(8, "little"))

    def counters(self) -> dict[Counter, int]:
        """Every counter, summed over the CPUs."""
        cpus = _possible_cpus()
        totals = {}
        for counter in Counter:
            raw = bpf.lookup(self["counters"].fd, int(counter).to_bytes(4, "little"), 8 * cpus)
            totals[counter] = int(np.frombuffer(raw or b"", "<u8").sum())
        return totals

    def lost(self) -> dict[str, int]:
        """Rows and packets that are missing from the log, in all, by reason."""
        totals = self.counters()
        return {counter.name.lower(): totals[counter] for counter in LOST}

    def close(self) -> None:
        """Close the descriptors; what is pinned stays."""
        for fd in (*(entry.fd for entry in self._maps.values()), self.ring, *self.programs.values()):
            os.close(fd)


_POSSIBLE = Path("/sys/devices/system/cpu/possible")


@functools.cache
def _possible_cpus() -> int:
    """Per-CPU values come for every possible CPU (Documentation/bpf/map_array.rst), the same until a reboot."""
    runs = (run.split("-") for run in _POSSIBLE.read_text().strip().split(","))
    return sum(int(run[-1]) - int(run[0]) + 1 for run in runs)


def cpu_stride(cpus: int) -> int:
    """The step from one of a CPU's chunks of slots to its next: by it every CPU comes to all of them."""
    return next(step for step in itertools.count(cpus) if math.gcd(step, CHUNKS) == 1)


def _open(folder: Path, name: str, layout: MapLayout) -> Map:
    fd = bpf.get(folder / name)
    return Map(name, fd, layout, bpf.map_info(fd).max_entries)


_SIZE_OF: dict[str, str] = {
    "events": "RING_BYTES",
    "flows": "FLOWS",
    "addresses": "ADDRESSES",
    "rows": "ROWS",
    "ports": "PORTS",
    "windows_0": "WINDOWS",
    "endpoints": "ENDPOINTS",
}
"""Map to the setting that gives its size: an adopted map keeps the size that it was made with."""


def _adopted_sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    for name, setting in _SIZE_OF.items():
        if (folder / name).exists():
            with bpf.closing(bpf.get(folder / name)) as fd:
                sizes[setting] = bpf.map_info(fd).max_entries
    return sizes


def _check(folder: Path) -> None:
    """Refuse to adopt maps of another layout: reading them would make nonsense of enforcement."""
    for name, layout in MAPS.items():
        if not (folder / name).exists():
            continue
        with bpf.closing(bpf.get(folder / name)) as fd:
            info = bpf.map_info(fd)
        wanted = (layout.kind, layout.key.itemsize, layout.value.itemsize)
        if (info.kind, info.key_size, info.value_size) != wanted:
            raise LayoutError(
                f"{folder / name} was made by another version (type, key and value size "
                f"{(info.kind, info.key_size, info.value_size)}, wanted {wanted}): run `weir-probe detach` first"
            )
    if (folder / "events").exists():
        with bpf.closing(bpf.get(folder / "events")) as fd:
            if bpf.map_info(fd).kind != RINGBUF:
                raise LayoutError(f"{folder / 'events'} is no ring buffer: run `weir-probe detach` first")


def as_bytes(dtype: np.dtype[Any], *values: Any) -> bytes:
    """One struct of ``dtype`` from its fields in order."""
    return np.array([tuple(values)], dtype).tobytes()
