"""The pinned maps: opening them, and reading and writing entries from user space."""

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

from probe.kernel import bpf, description, program
from probe.kernel.counter_kinds import CUT, ENDS_LOST, LOST
from probe.kernel.ends_layout import ENDS_RING, maps_of
from probe.kernel.layout import CHUNKS, RINGBUF, Array, Config, Counter, MapLayout
from probe.kernel.program_cache import ProgramCache


class LayoutError(RuntimeError):
    """A folder has maps of another layout than its name says. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Map:
    """One map. :class:`Maps` owns and closes the descriptor."""

    name: str
    fd: int
    layout: MapLayout
    max_entries: int

    def get(self, key: bytes) -> Array | None:
        """Return the value of a key as a zero-dimensional array, or None if the key is missing."""
        raw = bpf.lookup(self.fd, key, self.layout.value.itemsize)
        return None if raw is None else np.frombuffer(raw, self.layout.value)[0]

    def set(self, key: bytes, value: bytes) -> None:
        """Insert or overwrite one entry. Raises OSError, with E2BIG if the map is full."""
        bpf.update(self.fd, key, value)

    def drop(self, key: bytes) -> None:
        """Remove one entry if it exists."""
        bpf.delete(self.fd, key)

    def items(self) -> dict[bytes, bytes]:
        """Return all entries. Only for maps that programs do not write, because others change while they are read."""
        size = self.layout.value.itemsize
        found = ((key, bpf.lookup(self.fd, key, size)) for key in bpf.keys(self.fd, self.layout.key.itemsize))
        return {key: value for key, value in found if value is not None}

    def entries(self) -> tuple[Array, Array]:
        """Return the keys and values of a hash or an array as two numpy arrays of equal length."""
        runs = list(bpf.entry_blocks(self.fd, self.layout.key.itemsize, self.layout.value.itemsize))
        keys = np.frombuffer(b"".join(run[0] for run in runs), self.layout.key)
        return keys, np.frombuffer(b"".join(run[1] for run in runs), self.layout.value)


class Maps:
    """All maps below a pin folder, the ring buffer and the loaded programs."""

    def __init__(
        self,
        folder: Path,
        maps: Mapping[str, Map],
        ring: int,
        programs: Mapping[str, int],
        verdict: np.dtype[Any],
    ) -> None:
        self.folder = folder
        self.ring = ring
        self.ends_ring = bpf.get(folder / ENDS_RING) if (folder / ENDS_RING).exists() else None
        """The ring of reports of connections, if the programs make any."""
        self.programs = programs
        self.verdict = verdict
        """The layout of the entries of the ring."""
        self._maps = maps

    @classmethod
    def open(
        cls,
        folder: Path,
        sizes: Mapping[str, int],
        shared: Mapping[str, Path] | None = None,
        cache: ProgramCache | None = None,
    ) -> Self:
        """Load the programs, compiled if they are not in ``cache``, adopt the pinned maps and create the missing ones.

        ``sizes`` are the compile-time settings of ``policy.c``. A missing map is taken from ``shared``, another
        generation's pins by map name, if it has the size that is wanted. Raises LayoutError, program.LoadError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _check(folder, maps_of(sizes))
        cpus = _possible_cpus()
        machine = {"CPU_STRIDE": cpu_stride(cpus), "POSSIBLE_CPUS": cpus}
        program.build(folder, {**sizes, **machine}, shared or {}, cache)
        maps = {name: _open(folder, name, layout) for name, layout in maps_of(sizes).items()}
        programs = {name: bpf.get(folder / f"new_{name}") for name in program.PROGRAMS}
        for name in programs:
            (folder / f"new_{name}").rename(folder / name)
        opened = cls(folder, maps, bpf.get(folder / "events"), programs, description.OWN.verdict)
        if not opened.config(Config.RING_ID):
            opened.configure(Config.RING_ID, secrets.randbits(63) | 1)
        return opened

    @classmethod
    def adopt(cls, folder: Path, layouts: Mapping[str, MapLayout], verdict: np.dtype[Any]) -> Self:
        """Open what another generation has pinned, as it is, with its layout. Maps of another layout are left out."""
        maps = {name: _open(folder, name, layout) for name, layout in layouts.items() if _is_of(folder / name, layout)}
        programs = {name: bpf.get(folder / name) for name in program.PROGRAMS if (folder / name).exists()}
        return cls(folder, maps, bpf.get(folder / "events"), programs, verdict)

    def __contains__(self, name: str) -> bool:
        return name in self._maps

    def __getitem__(self, name: str) -> Map:
        return self._maps[name]

    @property
    def ring_id(self) -> str:
        """Return the ring's random id, 16 hexadecimal digits."""
        return f"{self.config(Config.RING_ID):016x}"

    def config(self, word: Config) -> int:
        """Return one word of ``config``."""
        raw = bpf.lookup(self["config"].fd, int(word).to_bytes(4, "little"), 8)
        return int.from_bytes(raw or b"", "little")

    def configure(self, word: Config, value: int) -> None:
        """Write one word of ``config``. Programs see either the old or the new word."""
        self["config"].set(int(word).to_bytes(4, "little"), value.to_bytes(8, "little"))

    def counters(self) -> dict[Counter, int]:
        """Return every counter, summed over the CPUs."""
        cpus = _possible_cpus()
        totals = {}
        for counter in Counter:
            raw = bpf.lookup(self["counters"].fd, int(counter).to_bytes(4, "little"), 8 * cpus)
            totals[counter] = int(np.frombuffer(raw or b"", "<u8").sum())
        return totals

    def lost(self) -> dict[str, int]:
        """Return how many verdicts and packets are missing from the log since the maps were created, by reason."""
        totals = self.counters()
        return {counter.name.lower(): totals[counter] for counter in LOST}

    def ends_lost(self) -> dict[str, int]:
        """Return how many reports of connections were not written since the maps were created, by reason."""
        totals = self.counters()
        return {reason: totals[counter] for reason, counter in ENDS_LOST.items()}

    def cut(self) -> dict[tuple[str, str], int]:
        """Return how many verdicts were cut since the maps were created, by kind (:mod:`enrich.wire.cuts`)."""
        totals = self.counters()
        return {kind: totals[counter] for kind, counter in CUT.items()}

    def take_limited(self) -> list[tuple[int, int, int]]:
        """Return endpoint number, kind of verdict and count of what the limits have cut since the last call.

        What is cut at this very moment may be missing: :meth:`cut` has all of it."""
        if "limited" not in self:
            return []  # of an earlier version
        keys, counts = self["limited"].entries()
        for key in keys:
            self["limited"].drop(key.tobytes())
        return list(zip(keys["endpoint"].tolist(), keys["verdict"].tolist(), counts.tolist(), strict=True))

    def close(self) -> None:
        """Close the descriptors. Pinned objects stay."""
        rings = [ring for ring in (self.ring, self.ends_ring) if ring is not None]
        for fd in (*(entry.fd for entry in self._maps.values()), *rings, *self.programs.values()):
            os.close(fd)


_POSSIBLE = Path("/sys/devices/system/cpu/possible")


@functools.cache
def _possible_cpus() -> int:
    """Count the possible CPUs: per-CPU values come for each (Documentation/bpf/map_array.rst). Fixed until a reboot."""
    runs = (run.split("-") for run in _POSSIBLE.read_text().strip().split(","))
    return sum(int(run[-1]) - int(run[0]) + 1 for run in runs)


def cpu_stride(cpus: int) -> int:
    """Return the distance between a CPU's consecutive chunks of slots, such that every CPU visits all chunks."""
    return next(step for step in itertools.count(cpus) if math.gcd(step, CHUNKS) == 1)


def _open(folder: Path, name: str, layout: MapLayout) -> Map:
    fd = bpf.get(folder / name)
    return Map(name, fd, layout, bpf.map_info(fd).max_entries)


def _is_of(pin: Path, layout: MapLayout) -> bool:
    if not pin.exists():
        return False
    return description.properties_of(pin) == layout.properties


def _check(folder: Path, layouts: Mapping[str, MapLayout]) -> None:
    """Refuse to adopt maps of another layout, because misread entries would change verdicts."""
    for name, layout in layouts.items():
        if not (folder / name).exists():
            continue
        found, expected = description.properties_of(folder / name), layout.properties
        if found != expected:
            raise LayoutError(
                f"the pinned map {folder / name} was made by another version: its type, key size and value size are "
                f"{found}, this version needs {expected}. Run `weir-probe detach`, which ends enforcement, and start "
                "again"
            )
    if (folder / "events").exists():
        with bpf.closing(bpf.get(folder / "events")) as fd:
            if bpf.map_info(fd).kind != RINGBUF:
                raise LayoutError(
                    f"the pinned map {folder / 'events'} is not a ring buffer. "
                    "Run `weir-probe detach`, which ends enforcement, and start again"
                )
