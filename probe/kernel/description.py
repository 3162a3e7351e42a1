"""The layout of a generation of maps, pinned with it: a probe of any version can read what another version left.

The description is JSON in an array map of one element. It names the fields of the verdicts, and of the keys and values
of all maps. Fields are found by name, so a layout may add, move and remove them. What is not described keeps its
meaning in every version: the indexes of ``config`` and ``counters`` (new ones are added at the end), and the head of a
request to ``close_windows``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import structlog

from enrich.wire.batch import VERDICT
from probe.kernel import bpf
from probe.kernel.layout import MAPS, VERSION, Array, MapLayout

log = structlog.get_logger("kubeweir.probe")

PIN: Final = "description"
_NEEDED: Final = ("config", "endpoints", "connections", "deny_windows_0", "deny_windows_1", "floods_0", "floods_1")

_CONNECTION_V3: Final = [
    ["last_ns", "<u8"], ["epoch", "<u4"], ["rule", "<u4"], ["identity", "<u4"], ["sequence", "<u4"], ["hash", "<u4"],
    ["direction", "u1"], ["verdict", "u1"], ["reason", "u1"], ["state", "u1"], ["other", "u1", [16]],
    ["other_port", "<u2"], ["padding", "u1", [6]],
]  # fmt: skip
"""What 0.1.0 wrote, whose maps have no description. Its other maps that are carried over are as they are today."""


class _Stored(msgspec.Struct):
    """The JSON of a description."""

    version: str
    sizes: dict[str, int]
    verdict: Any
    maps: dict[str, tuple[int, Any, Any]]


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


class UnreadableError(Exception):
    """The description of a generation cannot be read. The message says why."""


def write(folder: Path, sizes: Mapping[str, int]) -> None:
    """Pin the description of this version's layout in ``folder``, unless it is there as it must be."""
    own = OWN.encode(sizes)
    if (folder / PIN).exists():
        with contextlib.suppress(OSError):
            if _content(folder) == own:
                return
        log.error("the description of our maps was damaged, and is written again", folder=str(folder))
        (folder / PIN).unlink()
    with bpf.closing(bpf.array_of_one(own)) as fd:
        bpf.pin(fd, folder / PIN)


def read(folder: Path) -> tuple[Description, dict[str, int]]:
    """Return the layout of the generation in ``folder``, and its sizes (none: 0.1.0 made it). Raises UnreadableError.

    By the name of its folder, a generation of this version is known without its description, if that is damaged.
    """
    if not (folder / PIN).exists():
        connection = MapLayout(MAPS["connections"].kind, MAPS["connections"].key, _dtype(_CONNECTION_V3))
        return Description("v3", VERDICT, {**MAPS, "connections": connection}), {}
    try:
        parsed = msgspec.json.decode(_content(folder), type=_Stored)
        made = Description(parsed.version, _dtype(parsed.verdict), {
            name: MapLayout(kind, _dtype(key), _dtype(value)) for name, (kind, key, value) in parsed.maps.items()
        })  # fmt: skip
        _check(made)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if folder.name.partition("-")[0] == VERSION:
            return OWN, {}
        raise UnreadableError(str(error)) from error
    return made, parsed.sizes


def is_readable(folder: Path) -> bool:
    """Return whether :func:`read` knows the layout of the generation in ``folder``; log why if not."""
    try:
        read(folder)
    except UnreadableError as error:
        log.error(
            "another generation of maps cannot be read: its verdicts are lost, and its connections are looked up in "
            "nf_conntrack or judged anew", generation=folder.name, reason=str(error),
        )  # fmt: skip
        return False
    return True


def _content(folder: Path) -> bytes:
    with bpf.closing(bpf.get(folder / PIN)) as fd:
        return bpf.lookup(fd, bytes(4), bpf.map_info(fd).value_size) or b""


def _check(made: Description) -> None:
    """Raise ValueError if a layout lacks what a takeover reads."""
    missing = [name for name in _NEEDED if name not in made.maps]
    if missing or not {"endpoint", "identity", "rule"}.issubset(made.verdict.names or ()):
        raise ValueError(f"it lacks {', '.join(missing) or 'fields of the verdict'}")


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
