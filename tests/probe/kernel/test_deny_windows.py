"""In which order deny windows are closed, and how long that waits; the kernel's half is a stand-in."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import numpy as np
import pytest

from probe.kernel import bpf
from probe.kernel.deny_windows import DenyWindows
from probe.kernel.generations import Generation, Predecessor
from probe.kernel.layout import DENY_WINDOW, MAPS, VERDICT_KEY, Array, Config
from tests.waiting import until

_HEAD = struct.Struct("=16x4I")
_NAMES = "deny_windows_0", "deny_windows_1", "floods_0", "floods_1"


class Windows:
    """One map of deny windows, by the rule number of each flow: when it began to count, and its count."""

    def __init__(self, name: str) -> None:
        self.layout = MAPS[name]
        self.content: dict[int, tuple[int, int]] = {}
        self.reads = 0

    def entries(self) -> tuple[Array, Array]:
        """Return keys and values in an order that never changes, as that of a hash is."""
        self.reads += 1
        ordered = sorted(self.content.items())
        keys, values = np.zeros(len(ordered), VERDICT_KEY), np.zeros(len(ordered), DENY_WINDOW)
        keys["rule"] = [rule for rule, _ in ordered]
        values["first_ns"] = [first for _, (first, _) in ordered]
        values["count"] = [count for _, (_, count) in ordered]
        return keys, values


class Kernel:
    """Closes windows as ``close_windows`` does while there is room."""

    def __init__(self, limit: int, window_s: float = 5.0) -> None:
        self.words = {Config.LIMIT_DENIED: limit, Config.WINDOW_NS: int(window_s * 1e9)}
        self.maps = {name: Windows(name) for name in _NAMES}
        self.programs = {"close_windows": 0}
        self.room = 1 << 30
        self.runs = 0
        self.reported: list[int] = []

    def __getitem__(self, name: str) -> Windows:
        return self.maps[name]

    def __contains__(self, name: str) -> bool:
        return name in self.maps

    def config(self, word: Config) -> int:
        return self.words.get(word, 0)

    def configure(self, word: Config, value: int) -> None:
        self.words[word] = value

    def close(self, _program: int, request: bytes) -> tuple[int, int]:
        self.runs += 1
        parity, flood, _number, _padding = _HEAD.unpack_from(request)
        windows = self.maps[f"{'floods' if flood else 'deny_windows'}_{parity}"].content
        keys = np.frombuffer(request, VERDICT_KEY, offset=_HEAD.size)["rule"].tolist()
        for done, rule in enumerate(keys):
            if windows[rule][1]:
                if self.words[Config.LIMIT_DENIED] and not self.room:
                    return done, 0
                self.room -= 1
                self.reported.append(rule)
            del windows[rule]
        return len(keys), 0


Making = Callable[..., tuple[Kernel, DenyWindows]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Making:
    def made(limit: int, window_s: float = 5.0) -> tuple[Kernel, DenyWindows]:
        kernel = Kernel(limit, window_s)
        monkeypatch.setattr(bpf, "program_run", kernel.close)
        monkeypatch.setattr(bpf, "wait_for_programs", lambda: None)
        return kernel, DenyWindows(kernel)  # type: ignore[arg-type]

    return made


class Waits(threading.Event):
    """Counts how long it was waited for, and returns at once."""

    waited_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s += 0 if self.is_set() else timeout or 0
        return self.is_set()


def test_what_has_counted_for_longest_is_closed_first_and_what_has_no_count_needs_no_room(make: Making) -> None:
    kernel, windows = make(limit=10)
    windows.stop.set()
    kernel["deny_windows_0"].content = {1: (30, 5), 2: (10, 1), 3: (50, 0), 4: (20, 2), 5: (40, 0)}
    kernel.room = 2
    assert windows.rotate() == 4
    assert kernel.reported == [2, 4]
    assert list(kernel["deny_windows_0"].content) == [1]


def test_no_flow_waits_for_ever_while_more_are_active_than_the_limit_has_room_for(make: Making) -> None:
    kernel, windows = make(limit=10)
    windows.stop.set()
    for now in range(1, 41):
        active = kernel[f"deny_windows_{kernel.config(Config.DENY_WINDOW) & 1}"].content
        for rule in range(1, 11):
            first, count = active.get(rule, (now, 0))
            active[rule] = first, count + 1
        kernel.room = 2
        windows.rotate()
    assert set(kernel.reported) == set(range(1, 11))


@pytest.mark.parametrize(("window_s", "longest_s"), [(0.1, 0.2), (5.0, 2.0), (3600.0, 2.0)])
def test_closing_a_map_waits_for_room_but_not_for_long(make: Making, window_s: float, longest_s: float) -> None:
    kernel, windows = make(10, window_s)
    windows.stop = waits = Waits()
    kernel["deny_windows_0"].content = {1: (1, 5)}
    kernel.room = 0
    assert windows.rotate() == 0
    assert 0 < waits.waited_s <= longest_s + 1e-6
    assert kernel["deny_windows_0"].content == {1: (1, 5)}


def test_a_map_is_read_once_however_long_it_waits_for_room(make: Making) -> None:
    kernel, windows = make(limit=10)
    table = kernel["deny_windows_0"]
    table.content = {rule: (rule, 5) for rule in range(1, 8)}
    kernel.room = 0

    class Room(Waits):
        def wait(self, timeout: float | None = None) -> bool:
            kernel.room = 2
            return super().wait(timeout)

    windows.stop = Room()
    assert windows.rotate() == 7
    assert kernel.reported == [1, 2, 3, 4, 5, 6, 7]
    assert (table.content, table.reads) == ({}, 1)


def test_a_probe_that_stops_does_not_wait_for_room(make: Making) -> None:
    kernel, windows = make(limit=10)
    windows.stop = waits = Waits()
    waits.set()
    for parity in range(2):
        kernel[f"deny_windows_{parity}"].content = {1: (1, 5)}
        kernel[f"floods_{parity}"].content = {1: (1, 5)}
    kernel.room = 1
    assert windows.rotate() == 1
    assert waits.waited_s == 0
    assert kernel.runs == len(_NAMES), "each map is tried once"


def make_predecessor(kernel: Kernel, windows: DenyWindows) -> Predecessor:
    """Return one whose windows wait for room in its limit."""
    made = Predecessor.__new__(Predecessor)
    vars(made).update(maps=kernel, windows=windows, retired=threading.Event(), _lock=threading.Lock(),
                      _shares_traffic=False)  # fmt: skip
    kernel["deny_windows_0"].content = {1: (1, 5)}
    kernel.room = 0
    return made


def test_a_probe_that_stops_does_not_wait_for_room_in_the_limit_of_a_predecessor(make: Making) -> None:
    kernel, windows = make(limit=10)
    generation, predecessor = Generation.__new__(Generation), make_predecessor(kernel, windows)
    vars(generation).update(_windows=DenyWindows(kernel), predecessors=[predecessor])  # type: ignore[arg-type]
    waits = Waits()
    waits.set()
    generation.rotate_every(5.0, waits)
    predecessor.rotate()
    assert kernel["deny_windows_0"].content == {1: (1, 5)}
    assert kernel.runs == 1, "it is tried once"


def test_a_predecessor_whose_windows_wait_for_room_is_retired_at_once(make: Making) -> None:
    kernel, windows = make(limit=10)
    predecessor = make_predecessor(kernel, windows)

    class Retires(threading.Event):
        """While a rotation waits for room, the other thread ends the predecessor."""

        def wait(self, timeout: float | None = None) -> bool:
            retiring.start()
            until(lambda: not kernel.config(Config.LIMIT_DENIED))
            return False

    windows.stop = Retires()
    retiring = threading.Thread(target=predecessor.retire)
    predecessor.rotate()
    retiring.join()
    assert kernel.reported == [1]
    assert predecessor.retired.is_set()
