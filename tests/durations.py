"""How long the groups of tests took (tests/work_queue.py): kept in the cache from one run to the next, by which the
longest of a lane is run first, and shown at the end of a run.

Each process adds a line to a file of its own for each group that it has run without a failure. At the end of the run
all are merged into one file in the cache.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic  # a test may replace what the module has
from typing import Annotated, Final

import msgspec

from tests.programs import CACHE_FOLDER

_ROOT: Final = Path(__file__).parents[1]
KEPT: Final = CACHE_FOLDER / "test-durations.json"
_SHOWN: Final = 12


class Duration(msgspec.Struct, frozen=True):
    """What a group took. ``cpu_seconds`` has the processes that it started and that have ended."""

    tests: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    cpu_seconds: Annotated[float, msgspec.Meta(ge=0)]

    @property
    def of_one(self) -> float:
        """The mean of its tests: a run may have only some of them."""
        return self.seconds / self.tests


Durations = Mapping[str, Duration]
"""By lane and name of a group, as ``kafka tests/kafka/test_routes.py``."""


def read(path: Path = KEPT) -> Durations:
    """Return the durations of earlier runs; nothing if there are none, or the file is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Duration])
    except (OSError, msgspec.MsgspecError, RecursionError):
        return {}


@contextlib.contextmanager
def measured(group: str, tests: int, path: Path) -> Iterator[None]:
    """Add a line to a file about what the group has taken, unless an exception ends it."""
    began, cpu_began = monotonic(), _cpu_seconds()
    yield
    line = msgspec.json.encode({group: Duration(tests, monotonic() - began, _cpu_seconds() - cpu_began)})
    with path.open("ab") as file:
        file.write(line + b"\n")


def merged(paths: Iterable[Path]) -> Durations:
    """Return the durations that the processes of a run have written."""
    found: dict[str, Duration] = {}
    for path in paths:
        # The last line of a process that was killed may not be whole.
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            for line in path.read_bytes().splitlines():
                found |= msgspec.json.decode(line, type=dict[str, Duration])
    return found


def keep(durations: Durations, path: Path = KEPT) -> None:
    """Keep the durations of a run for the next, with those of groups that it did not have and that still exist."""
    known = {**read(path), **durations}
    # Path.exists would raise an error for a name that is too long, as a damaged file may have.
    kept = {name: one for name, one in known.items() if os.path.exists(_ROOT / name.partition(" ")[2])}  # noqa: PTH110
    unfinished = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # the cache may belong to another user
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
        unfinished.replace(path)


def lines(durations: Durations) -> list[str]:
    """Return a line for each of the groups that took most CPU."""
    found = sorted(durations.items(), key=lambda one: -one[1].cpu_seconds)[:_SHOWN]
    return [f"  {one.seconds:5.0f} s {one.cpu_seconds:5.0f} s of CPU  {name.partition(' ')[2]}" for name, one in found]


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
