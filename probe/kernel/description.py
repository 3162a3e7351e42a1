"""The layout of a generation of maps, pinned with it: a probe of any version can read what another version left.

The description is JSON in an array map of one element. It names the fields of the verdicts, and of the keys and values
of all maps. Fields are found by name, so a layout may add, move and remove them. What is not described keeps its
meaning in every version: the indexes of ``config`` and ``counters`` (new ones are added at the end), and the head of a
request to ``close_windows``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from enrich.wire.batch import VERDICT
from probe.kernel import bpf
from probe.kernel.layout import MAPS, VERSION, Array, MapLayout

PIN: Final = "description"

_CONNECTION_V3: Final = [
    ["last_ns", "<u8"], ["epoch", "<u4"], ["rule", "<u4"], ["identity", "<u4"], ["sequence", "<u4"], ["hash", "<u4"],
    ["direction", "u1"], ["verdict", "u1"], ["reason", "u1"], ["state", "u1"], ["other", "u1", [16]],
    ["other_port", "<u2"], ["padding", "u1", [6]],
]  # fmt: skip
"""What 0.1.0 wrote, whose maps have no description. Its other maps that are carried over are as they are today."""


@dataclass(frozen=True, slots=True)
class Description:
    """The layout of one generation."""

    version: str
    verdict: np.dtype[Any]
    maps: Mapping[str, MapLayout]

    def encode(self, sizes: Mapping[str, int]) -> bytes:
        """Return the description as JSON, with the sizes that the generation was made with."""
        maps = {name: [made.kind, _spec(made.key), _spec(made.value)] for name, made in self.maps.items()}
        return json.dumps(
            {"version": self.version, "sizes": dict(sizes), "verdict": _spec(self.verdict), "maps": maps},
            sort_keys=True,
        ).encode()


OWN: Final = Description(VERSION, VERDICT, MAPS)
"""What this version writes."""


def write(folder: Path, sizes: Mapping[str, int]) -> None:
    """Pin the description of this version's layout in ``folder`` if there is none."""
    if not (folder / PIN).exists():
        with bpf.closing(bpf.array_of_one(OWN.encode(sizes))) as fd:
            bpf.pin(fd, folder / PIN)


def read(folder: Path) -> tuple[Description, dict[str, int]]:
    """Return the layout of the generation in ``folder``, and its sizes (none: 0.1.0 made it)."""
    try:
        with bpf.closing(bpf.get(folder / PIN)) as fd:
            raw = bpf.lookup(fd, bytes(4), bpf.map_info(fd).value_size) or b""
    except FileNotFoundError:
        connection = MapLayout(MAPS["connections"].kind, MAPS["connections"].key, _dtype(_CONNECTION_V3))
        return Description("v3", VERDICT, {**MAPS, "connections": connection}), {}
    parsed = json.loads(raw)
    maps = {name: MapLayout(kind, _dtype(key), _dtype(value)) for name, (kind, key, value) in parsed["maps"].items()}
    return Description(parsed["version"], _dtype(parsed["verdict"]), maps), parsed["sizes"]


def converted(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array with the fields of another layout: fields of one name and shape are copied, others are 0."""
    if values.dtype == dtype:
        return values
    made: Array = np.zeros(values.shape, dtype)
    if dtype.names is None or values.dtype.names is None:
        made[...] = values
        return made
    for name in dtype.names:
        if name in values.dtype.names and made[name].shape == values[name].shape and name != "padding":
            made[name] = converted(values[name], made[name].dtype)
    return made


def _spec(dtype: np.dtype[Any]) -> Any:
    """Return a packed dtype as lists: [name, type, shape] of each field, or the type's text."""
    if dtype.names is None:
        return dtype.str
    fields = []
    for name in dtype.names:
        kind = dtype[name]
        base, shape = kind.subdtype or (kind, ())
        fields.append([name, _spec(base), list(shape)])
    return fields


def _dtype(spec: Any) -> np.dtype[Any]:
    if isinstance(spec, str):
        return np.dtype(spec)
    return np.dtype([(name, _dtype(kind), tuple(*shape)) for name, kind, *shape in spec])
