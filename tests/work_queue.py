"""A pytest plugin by which several pytest processes share one list of tests (``-p tests.work_queue``).

1. One process collects all tests, and forks the others (tests/lanes.py). The tests are cut into groups: those of a
   file that are in the same lane. A lane is the outside world that a test waits for; kernel tests have a lane for each
   way of attaching, because another way needs another rig.
2. A process takes a group by making a file of the group's name, which can be made only once (``--queue FOLDER``).
3. It takes the groups of its own lane first, so that most runs make a broker or a rig only once. When its lane is
   empty, it goes to the lane with the most work left, and stays there until that one is empty too.
4. In a lane the longest group is the first, so that the processes end at about the same time. How long a group takes
   is known from earlier runs (tests/durations.py); that of a new one is estimated from its number of tests.
5. Some files take both cores, or need that something is done in time. They are the first of their lane, and of all
   processes only one runs such a file at a time: it holds a lock on a file of the folder. Without that, they would all
   be left at the end of a run, and disturb each other.

What has the scope of a session lives as long as the process, that of a module or a package until the end of a group.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pytest

from tests import durations, lanes
from tests.durations import Durations
from tests.lanes import LANES

_SECONDS: Final = {"computing": 0.15, "tcx": 2, "clsact": 2, "kafka": 8, "cluster": 12}
"""About how long a test of a lane takes while all processes run, if nothing is known of its group."""
_PACKAGES: Final = ("tests/cluster/whole/", "tests/services/")
"""Folders whose tests share what takes long to start, or depend on each other: each is one group."""
_ALONE: Final = (
    "tests/bench/test_bench.py",
    "tests/chaos/test_chaos.py",
    "tests/custody/test_custody.py",
    "tests/kafka/test_stalls_of_the_roles.py",
)
"""Files of which only one runs at a time."""
_POLL_S: Final = 0.2


@dataclass
class Group:
    """Tests that one process runs without a pause, in the order in which they were collected."""

    lane: str
    name: str
    items: list[pytest.Item] = field(default_factory=list)
    seconds_of_one: float = 0.0
    """How long one of its tests takes, on average."""

    @property
    def seconds(self) -> float:
        return len(self.items) * self.seconds_of_one

    @property
    def is_alone(self) -> bool:
        return self.name in _ALONE


def lane_of(item: pytest.Item) -> str:
    """Return the lane of a test by its markers."""
    marks = {marker.name for marker in item.iter_markers()}
    if "cluster" in marks:
        return "cluster"
    if marks & {"kafka", "e2e"}:
        return "kafka"
    if "kernel" in marks:
        return "clsact" if "clsact" in marks else "tcx"
    return "computing"


def groups_of(items: Sequence[pytest.Item], known: Durations) -> list[Group]:
    """Return all groups: those of which only one runs at a time, then the others, the longest first."""
    found: dict[tuple[str, str], Group] = {}
    for item in items:
        file = item.nodeid.partition("::")[0]
        name = next((package for package in _PACKAGES if file.startswith(package)), file)
        key = lane_of(item), name
        if key not in found:
            earlier = known.get(" ".join(key))
            found[key] = Group(*key, seconds_of_one=earlier.of_one if earlier else _SECONDS[key[0]])
        found[key].items.append(item)
    return sorted(found.values(), key=lambda group: (not group.is_alone, -group.seconds, group.name))


class WorkQueue:
    """The groups that no process has taken yet, as one of the processes sees them."""

    def __init__(self, folder: Path, lane: str, groups: Sequence[Group]) -> None:
        self._folder, self._lane, self._groups = folder, lane, groups

    def taken(self) -> Iterator[Group]:
        """Take one group after the other, until none is left."""
        while left := [group for group in self._groups if not self._file(group).exists()]:
            with (self._folder / "turn").open("wb") as turn:
                has_turn = _lock(turn)
                group = self._choose([group for group in left if has_turn or not group.is_alone])
                if group is None or not group.is_alone:
                    # Another process may need it meanwhile.
                    fcntl.flock(turn, fcntl.LOCK_UN)
                if group is None:
                    time.sleep(_POLL_S)
                elif self._take(group):
                    yield group

    def _choose(self, left: Sequence[Group]) -> Group | None:
        if left and all(group.lane != self._lane for group in left):
            lanes_left = {group.lane for group in left}
            # If all known durations were 0, a lane without a group would be chosen again and again.
            self._lane = max(
                (lane for lane in LANES if lane in lanes_left),
                key=lambda lane: sum(group.seconds for group in left if group.lane == lane),
            )
        return next((group for group in left if group.lane == self._lane), None)

    def _take(self, group: Group) -> bool:
        try:
            self._file(group).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _file(self, group: Group) -> Path:
        return self._folder / hashlib.sha256(f"{group.lane} {group.name}".encode()).hexdigest()


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed; return False if another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--queue``."""
    parser.addoption("--queue", type=Path, help="folder in which the processes write which groups they have taken")


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run what this process takes from the queue; without ``--queue``, pytest runs everything."""
    config = session.config
    if config.option.queue is None or config.option.collectonly:
        return None
    if session.testsfailed and not config.option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    # Before the fork: all must have the same order.
    groups = groups_of(session.items, durations.read())
    lane = lanes.fork(config, config.option.queue.parent)
    for group in WorkQueue(config.option.queue, lane, groups).taken():
        _run(session, group, lanes.durations_of(lane, config.option.queue.parent))
    lanes.say_done(lane, config.option.queue.parent)
    return True


def _run(session: pytest.Session, group: Group, taken: Path) -> None:
    """Run a group, and note how long it took if all went well: what fails waits for long."""
    failed = session.testsfailed
    # Only the session goes on after a group: what it has set up stays, and all else is torn down.
    after = cast("pytest.Item", session)
    with contextlib.suppress(_FailedError), durations.measured(f"{group.lane} {group.name}", len(group.items), taken):
        for item, following in zip(group.items, [*group.items[1:], after], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            _stop_if_requested(session)
        if session.testsfailed > failed:
            raise _FailedError


class _FailedError(Exception):
    """A test of a group has failed."""


def _stop_if_requested(session: Any) -> None:
    """End the run as pytest's own loop does: after ``-x`` or ``--maxfail``, and when a plugin asks for it."""
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
