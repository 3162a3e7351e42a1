"""The layout of a generation of maps, pinned with it: a probe of any version can read what another version left.

The description is JSON in an array map of one element. It names the fields of the verdicts, and of the keys and values
of all maps. Fields are found by name, so a layout may add, move and remove them. What is not described keeps its
meaning in every version: the indexes of ``config`` and ``counters`` (new ones are added at the end), and the head of a
request to ``close_windows``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import structlog

from enrich.wire.batch import VERDICT
from probe.kernel import bpf, released_layouts
from probe.kernel.ends_layout import ENDS, ENDS_MAPS, TRAFFIC_MAP
from probe.kernel.layout import ENDPOINT_SIDES, MAPS, RINGBUF, VERSION, Array, MapLayout

log = structlog.get_logger("kubeweir.probe")

PIN: Final = "description"
WINDOWS: Final = ("deny_windows_0", "deny_windows_1", "floods_0", "floods_1")
"""The maps in which programs count denied packets."""
_NEEDED: Final = ("config", "endpoints", "connections", *WINDOWS)


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
        all_maps = {**self.maps, **(ENDS_MAPS if sizes.get(ENDS) else {})}
        maps = {name: [made.kind, _spec(made.key), _spec(made.value)] for name, made in all_maps.items()}
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
    """Return the layout of the generation in ``folder``, and its sizes (empty: not known). Raises UnreadableError.

    By the name of its folder, a generation of this version or of 0.1.0 is known without a description. A description
    is believed if the maps that are pinned are as it says.
    """
    reason = ""
    for made, sizes in _candidates(folder):
        try:
            if isinstance(made, UnreadableError):
                raise made
            _check(made)
            _check_pins(folder, made)
        except UnreadableError as error:
            reason = reason or str(error)
        else:
            return made, sizes
    raise UnreadableError(reason or "it has no description")


def _candidates(folder: Path) -> Iterator[tuple[Description | UnreadableError, dict[str, int]]]:
    """Yield what the layout may be, the best first, and why the description cannot be read."""
    if (folder / PIN).exists():
        try:
            parsed = msgspec.json.decode(_content(folder), type=_Stored)
            yield Description(parsed.version, _dtype(parsed.verdict), {
                name: MapLayout(kind, _dtype(key), _dtype(value)) for name, (kind, key, value) in parsed.maps.items()
            }), parsed.sizes  # fmt: skip
        except (OSError, ValueError, TypeError, RecursionError) as error:
            yield UnreadableError(str(error)), {}
    version = folder.name.partition("-")[0]
    if version == VERSION:
        # Without its sizes, it is not known whether it has these maps. Those that are not pinned are left out.
        yield replace(OWN, maps={**OWN.maps, **ENDS_MAPS}), {}
    if version == released_layouts.VERSION:
        for maps in released_layouts.UNDESCRIBED:
            yield Description(version, VERDICT, maps), {}


def was_used(folder: Path) -> bool:
    """Return whether a generation was in force. Its programs are pinned last, and its ring is removed first."""
    return (folder / "events").exists() and (folder / "close_windows").exists()


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


def properties_of(pin: Path) -> tuple[int, int, int]:
    """Return type, key size and value size of a pinned map (:attr:`MapLayout.properties`). Raises OSError."""
    with bpf.closing(bpf.get(pin)) as fd:
        info = bpf.map_info(fd)
    return info.kind, info.key_size, info.value_size


def _content(folder: Path) -> bytes:
    with bpf.closing(bpf.get(folder / PIN)) as fd:
        return bpf.lookup(fd, bytes(4), bpf.map_info(fd).value_size) or b""


def _check(made: Description) -> None:
    """Raise UnreadableError if a layout lacks what a takeover reads."""
    missing = [name for name in _NEEDED if name not in made.maps]
    if missing:
        raise UnreadableError(f"it lacks {', '.join(missing)}")
    for dtype, fields in _needed_fields(made):
        if not fields.issubset(dtype.names or ()):
            raise UnreadableError("it lacks fields of verdicts, deny windows or connections to be reported")


def _needed_fields(made: Description) -> Iterator[tuple[np.dtype[Any], set[str]]]:
    numbers = {"endpoint", "identity", "rule"}
    yield made.verdict, numbers
    for window in (made.maps[name] for name in WINDOWS):
        yield window.key, {"endpoint", "rule"}
        yield window.value, {"identity", "count"}
    if traffic := made.maps.get(TRAFFIC_MAP):
        yield traffic.value, {"state", "verdict"}
        yield traffic.value["verdict"], numbers


def _check_pins(folder: Path, made: Description) -> None:
    """Raise UnreadableError if what a takeover reads is not pinned as the layout says."""
    expected = {name: made.maps[name].properties for name in _NEEDED} | {"events": (RINGBUF, 0, 0)}
    for name, properties in expected.items():
        try:
            found = properties_of(folder / name)
        except OSError as error:
            raise UnreadableError(f"the map {name} cannot be opened: {error.strerror}") from error
        if found != properties:
            raise UnreadableError(
                f"type, key size and value size of the map {name} are {found}, and its layout says {properties}"
            )


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


def endpoint_sides(value: bytes, stored: np.dtype[Any], side: int) -> bytes:
    """Return an endpoint of the layout ``stored`` as this version writes it: on both sides what is in force."""
    found: Array = np.frombuffer(value, stored)
    if stored == released_layouts.EARLIER_ENDPOINT:
        sides = released_layouts.endpoint_by_side(found, side)
    else:
        sides = converted(found, ENDPOINT_SIDES).copy()
    sides["side"][0][1 - side] = sides["side"][0][side]
    return sides.tobytes()


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
