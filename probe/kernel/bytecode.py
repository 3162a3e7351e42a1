"""What the compiler makes of ``bpf/policy.c``: the code of each program, and what its maps are.

In the code, an instruction refers to a map by a descriptor, which is another number in each process. Therefore the map
is noted here by name for each such instruction, and :meth:`ProgramCode.linked` puts descriptors in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

import msgspec
import numpy as np

INSN: Final = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])
"""``struct bpf_insn``. The upper half of ``registers`` is the source register (on little-endian machines)."""
LD_IMM64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1


class MapSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a map is created with: ``BPF_MAP_CREATE``'s type, sizes in bytes, and flags."""

    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    is_pinned: bool
    """False: the map is a scratch memory of the programs, and ends with them."""
    inner: str = ""
    """Of a map of maps: the name of a map that each map in it resembles."""

    @property
    def size(self) -> tuple[int, int, int, int, int]:
        """Return what must be equal for a map to stand in for another."""
        return self.kind, self.key_size, self.value_size, self.max_entries, self.flags


class ProgramCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The code of one program."""

    code: bytes
    """Its ``struct bpf_insn``, with 0 instead of descriptors of maps."""
    references: dict[str, list[int]]
    """The instructions that refer to a map, by the map's name; the first instruction is 0."""

    @classmethod
    def unlinked(cls, code: bytes, names: Mapping[int, str]) -> Self:
        """Return the code with 0 instead of each descriptor; ``names`` has the map's name for each."""
        found = np.frombuffer(code, INSN).copy()
        references: dict[str, list[int]] = {}
        for index in np.flatnonzero(_refers_to_map(found)):
            references.setdefault(names[int(found["imm"][index])], []).append(int(index))
            found["imm"][index] = 0
        return cls(found.tobytes(), references)

    def linked(self, maps: Mapping[str, int]) -> bytes:
        """Return the code with the descriptors of these maps."""
        made = np.frombuffer(self.code, INSN).copy()
        for name, indexes in self.references.items():
            made["imm"][indexes] = maps[name]
        return made.tobytes()

    def is_whole(self) -> bool:
        """Return whether ``references`` are the instructions of ``code`` that refer to a map."""
        if not self.code or len(self.code) % INSN.itemsize:
            return False
        found = np.flatnonzero(_refers_to_map(np.frombuffer(self.code, INSN)))
        return sorted(index for indexes in self.references.values() for index in indexes) == found.tolist()


class Bytecode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All programs and all maps."""

    license_name: str
    maps: dict[str, MapSpec]
    programs: dict[str, ProgramCode]

    def is_whole(self) -> bool:
        """Return whether every map that the programs refer to is there, and nothing else is referred to."""
        return all(
            program.is_whole() and program.references.keys() <= self.maps.keys() for program in self.programs.values()
        )


def _refers_to_map(code: np.ndarray[tuple[int], np.dtype[np.void]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = (code["code"] == LD_IMM64) & (
        code["registers"] >> 4 == _PSEUDO_MAP_FD
    )
    return found
