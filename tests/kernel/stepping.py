"""Traffic beside installations of policy: every answer must be one that the old or the new state gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from enrich.model import Pod, Protocol
from enrich.policy.matching import Direction, PolicyView
from enrich.wire.batch import PolicyRef, Verdict
from probe.kernel.endpoints import Bound
from probe.kernel.layout import Config
from probe.kernel.maps import Map, Maps
from tests.kernel.asked import frame, passes
from tests.kernel.rig import Rig
from tests.probe.policy.random_clusters import Asked, expected, questions, subjects

Answer = tuple[int, int, tuple[PolicyRef, ...]]
"""Verdict, reason, policies."""
_Key = tuple[str, Direction, str, str, Protocol, int]
"""Name of a local pod, direction, its own address, the peer's address, protocol, port."""


def install(rig: Rig, interfaces: dict[str, int], view: PolicyView) -> None:
    """Compile and install for the local pods of a view."""
    local = subjects(view)
    bound = [
        Bound(interfaces[pod.name], rig.numbers.number_of("endpoint", pod.uid, {}), pod.uid, pod.ips) for pod in local
    ]
    rig.installer.apply(rig.compiler.compile(view, local), bound, time.monotonic_ns())


def judged(view: PolicyView, asked: Asked) -> list[Answer]:
    """Return what the verdicts must say. The egress of a local sender is judged too, because no stamp says it was."""
    pod, direction, ip, protocol, port = asked
    answer = expected(view, asked)
    assert answer is not None
    sender = next((one for one in subjects(view) if ip in one.ips), None)
    if direction is Direction.EGRESS or sender is None:
        return [answer]
    sent = expected(view, (sender, Direction.EGRESS, own_address(pod, ip), protocol, port))
    assert sent is not None
    return [sent] if sent[0] == Verdict.DENY else [sent, answer]


def own_address(pod: Pod, ip: str) -> str:
    """Return the pod's address of the same family."""
    return next(one for one in pod.ips if (":" in one) == (":" in ip))


def is_passed(rig: Rig, interfaces: dict[str, int], asked: Asked) -> bool:
    """Run the program on the first packet of a new connection."""
    pod, direction, ip, protocol, port = asked
    own = own_address(pod, ip)
    ends = (own, ip) if direction is Direction.EGRESS else (ip, own)
    return passes(rig, interfaces[pod.name], direction, frame(*ends, protocol, port))


class _State:
    """What one state of the cluster allows, computed when it is asked for."""

    def __init__(self, view: PolicyView) -> None:
        self._view = view
        self._known: dict[_Key, bool | None] = {}
        self.questions = {_key(one): one for one in questions(view) if one[3] is Protocol.TCP and one[4] in (80, 443)}

    def allows(self, asked: Asked) -> bool | None:
        """Return False if the state has no such pod: its interface is closed. None: the kernel knows without policy."""
        key = _key(asked)
        if key not in self._known:
            self._known[key] = self._judge(asked)
        return self._known[key]

    def _judge(self, asked: Asked) -> bool | None:
        pod, direction, ip, protocol, port = asked
        own = own_address(pod, ip)
        now = next((one for one in subjects(self._view) if one.name == pod.name and own in one.ips), None)
        if now is None:
            return False
        question = (now, direction, ip, protocol, port)
        if expected(self._view, question) is None:
            return None
        return judged(self._view, question)[-1][0] != Verdict.DENY


def _key(asked: Asked) -> _Key:
    pod, direction, ip, protocol, port = asked
    return pod.name, direction, own_address(pod, ip), ip, protocol, port


class Traffic:
    """New connections, while policy changes.

    Each must be answered as one of the states says that may have been in force: from the last one that was installed
    before it, to the last one that was begun when it was answered.
    """

    def __init__(self, rig: Rig, interfaces: dict[str, int]) -> None:
        self._rig, self._interfaces = rig, interfaces
        self._states: list[_State] = []
        self._questions: list[Asked] = []
        self._installed = 0
        self._stop = threading.Event()
        self.wrong: list[tuple[object, ...]] = []
        self.asked = self.between = 0
        """All answers, and those given while an installation was under way."""

    def begin(self, view: PolicyView) -> None:
        """Note that a state is about to be installed. Questions about the pods of both states are asked from now on."""
        state = _State(view)
        before = self._states[-1].questions if self._states else {}
        self._questions = list((before | state.questions).values())
        self._states.append(state)

    def done(self) -> None:
        """Note that the state that was begun last is in force."""
        self._installed = len(self._states) - 1

    def abandon(self) -> None:
        """Note that the state that was begun last has not come in force, and nobody continues its installation."""
        self._states.pop()

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._stop.is_set():
            self.ask()

    def ask(self) -> None:
        """Ask everything once."""
        # Source ports repeat after a while, and an origin is believed for some seconds: forget those of earlier rounds.
        keys, _ = self._rig.maps["origins"].entries()
        for key in keys:
            self._rig.maps["origins"].drop(key.tobytes())
        for asked in self._questions:
            first, epoch = self._installed, self._rig.maps.config(Config.EPOCH)
            passed = is_passed(self._rig, self._interfaces, asked)
            if not passed and self._rig.maps.config(Config.EPOCH) != epoch:
                # Policy was switched between the pod's hook and the exit, which drops what another endpoint has sent.
                continue
            states = self._states[first:]
            self.asked += 1
            self.between += len(states) > 1
            answers = {state.allows(asked) for state in states}
            if passed not in answers and None not in answers:
                self.wrong.append((*_key(asked), passed, len(states)))

    def stop(self) -> None:
        self._stop.set()


class Stepped:
    """The maps, with a call after each single write."""

    def __init__(self, maps: Maps, after: Callable[[], None]) -> None:
        self._maps, self._after = maps, after

    def __getitem__(self, name: str) -> _SteppedMap:
        return _SteppedMap(self._maps[name], self._after)

    def config(self, word: Config) -> int:
        return self._maps.config(word)

    def configure(self, word: Config, value: int) -> None:
        self._maps.configure(word, value)
        self._after()


class _SteppedMap:
    def __init__(self, table: Map, after: Callable[[], None]) -> None:
        self._table, self._after = table, after
        self.name, self.items, self.max_entries = table.name, table.items, table.max_entries
        self.get, self.entries = table.get, table.entries

    def set(self, key: bytes, value: bytes) -> None:
        self._table.set(key, value)
        self._after()

    def drop(self, key: bytes) -> None:
        self._table.drop(key)
        self._after()


class Killed(BaseException):
    """The probe was killed after a write."""


def killed_after(writes: int) -> Callable[[], None]:
    """Return a callback that raises :class:`Killed` at its call number ``writes``, counted from 1."""
    left: Iterator[int] = iter(range(writes - 1, -1, -1))

    def count() -> None:
        if next(left, 1) == 0:
            raise Killed

    return count
