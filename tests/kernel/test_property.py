"""For random clusters and policies, the loaded program with the installed maps answers as the pure engine does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from enrich.model import Object, Protocol
from enrich.policy.matching import Direction, PolicyView
from enrich.wire.batch import PolicyRef, Verdict
from probe.kernel.endpoints import Bound
from probe.kernel.installer import Installer
from probe.kernel.layout import Config
from probe.kernel.maps import Map, Maps
from tests.enrich.policy.test_decide import made as made_of
from tests.kernel.asked import frame, passes
from tests.kernel.rig import Rig
from tests.probe.policy.random_clusters import OWN, Asked, World, changes, expected, questions, subjects, worlds

pytestmark = [pytest.mark.kernel, pytest.mark.property, pytest.mark.one_mode]

Answer = tuple[int, int, tuple[PolicyRef, ...]]
"""Verdict, reason, policies."""
_FULL = 400
"""Denied connections after which the windows are emptied."""


@pytest.fixture
def interfaces(rig: Rig) -> Iterator[dict[str, int]]:
    """Of the two local pods. How programs are attached makes no difference to one that is asked by BPF_PROG_RUN."""
    pods = [rig.net.pod(rig.node) for _ in range(2)]
    yield {f"p{number}": pod.index for number, pod in enumerate(pods)}
    for pod in pods:
        rig.net.remove(pod)


def test_program_and_engine_agree_on_every_pair(rig: Rig, interfaces: dict[str, int]) -> None:
    rig.maps.configure(Config.POD_DENIED_FLOWS, 1 << 20)
    # A window that goes on would fill the map: past that, denials are counted and not told one by one.
    rig.maps.configure(Config.WINDOW_NS, 0)

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(worlds(), st.lists(changes(), min_size=1, max_size=6))
    def agree(world: World, then: list[tuple[str, Object | None]]) -> None:
        _install_and_ask(rig, interfaces, world.view())
        for slot, made in then:
            world = world.changed(slot, made)
        _install_and_ask(rig, interfaces, world.view())

    agree()


def _install_and_ask(rig: Rig, interfaces: dict[str, int], view: PolicyView) -> None:
    local = subjects(view)
    bound = [
        Bound(interfaces[pod.name], rig.numbers.number_of("endpoint", pod.uid, {}), pod.uid, pod.ips) for pod in local
    ]
    rig.installer.apply(rig.compiler.compile(view, local), bound, time.monotonic_ns())
    rig.drain()
    rig.network.run(lambda: _ask(rig, interfaces, view))


def _install(rig: Rig, interfaces: dict[str, int], view: PolicyView) -> None:
    local = subjects(view)
    bound = [
        Bound(interfaces[pod.name], rig.numbers.number_of("endpoint", pod.uid, {}), pod.uid, pod.ips) for pod in local
    ]
    rig.installer.apply(rig.compiler.compile(view, local), bound, time.monotonic_ns())


def _ask(rig: Rig, interfaces: dict[str, int], view: PolicyView) -> None:
    for number, asked in enumerate(questions(view)):
        if expected(view, asked) is None:
            continue
        if number % _FULL == 0:
            rig.windows.rotate()
            rig.windows.rotate()
            rig.drain()
        assert _answers(rig, interfaces, asked) == _judged(view, asked), asked


def _judged(view: PolicyView, asked: Asked) -> list[Answer]:
    """What the rows must say. Where a local pod is the sender and no stamp says so, its egress is judged too."""
    pod, direction, ip, protocol, port = asked
    wanted = expected(view, asked)
    assert wanted is not None
    sender = next((one for one in subjects(view) if ip in one.ips), None)
    if direction is Direction.EGRESS or sender is None:
        return [wanted]
    own = next(one for one in pod.ips if (":" in one) == (":" in ip))
    sent = expected(view, (sender, Direction.EGRESS, own, protocol, port))
    assert sent is not None
    return [sent] if sent[0] == Verdict.DENY else [sent, wanted]


def _answers(rig: Rig, interfaces: dict[str, int], asked: Asked) -> list[Answer]:
    passed = _passes(rig, interfaces, asked)
    rows = rig.drain()
    verdicts = [int(row["verdict"] & 0x7F) for row in rows]
    assert passed == (Verdict.DENY not in verdicts)
    rules = [rig.numbers.meaning("rule", int(row["rule"])) or () for row in rows]
    return [
        (verdict, int(row["reason"]), tuple(PolicyRef(**entry) for entry in rule))
        for verdict, row, rule in zip(verdicts, rows, rules, strict=True)
    ]


def _passes(rig: Rig, interfaces: dict[str, int], asked: Asked) -> bool:
    pod, direction, ip, protocol, port = asked
    own = next(one for one in pod.ips if (":" in one) == (":" in ip))
    ends = (own, ip) if direction is Direction.EGRESS else (ip, own)
    return passes(rig, interfaces[pod.name], direction, frame(*ends, protocol, port))


class _Traffic:
    """New connections, one after the other on a thread of its own, while policy changes.

    Each must be answered as one of the states says that may have been in force: from the last one that was installed
    before it, to the last one that was begun when it was answered.
    """

    def __init__(self, rig: Rig, interfaces: dict[str, int]) -> None:
        self._rig, self._interfaces = rig, interfaces
        self._states: list[dict[tuple[object, ...], bool]] = []
        self._installed = 0
        self._stop = threading.Event()
        self.wrong: list[tuple[object, ...]] = []
        self.asked = self.between = 0
        """All, and those that met an installation under way."""

    def begin(self, view: PolicyView) -> None:
        """A state is about to be installed."""
        found: dict[tuple[object, ...], bool] = {}
        for one in questions(view):
            if one[3] is Protocol.TCP and one[4] in (80, 443) and expected(view, one) is not None:
                found[(one[0].name, *one[1:])] = _judged(view, one)[-1][0] != Verdict.DENY
        self._questions = [one for one in questions(view) if (one[0].name, *one[1:]) in found]
        self._states.append(found)

    def done(self) -> None:
        """It is."""
        self._installed = len(self._states) - 1

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._stop.is_set():
            self.ask()

    def ask(self) -> None:
        """Everything once."""
        for asked in self._questions:
            first, key = self._installed, (asked[0].name, *asked[1:])
            passed = _passes(self._rig, self._interfaces, asked)
            states = self._states[first:]
            self.asked += 1
            self.between += len(states) > 1
            if passed not in {state.get(key, passed) for state in states}:
                self.wrong.append((*key, passed, len(states)))

    def stop(self) -> None:
        self._stop.set()


class _Stepped:
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
        self.items, self.max_entries = table.items, table.max_entries

    def set(self, key: bytes, value: bytes) -> None:
        self._table.set(key, value)
        self._after()

    def drop(self, key: bytes) -> None:
        self._table.drop(key)
        self._after()


def _step(rig: Rig, interfaces: dict[str, int], world: World, then: list[tuple[str, Object | None]]) -> None:
    """Install a world and then each change; after every single write, ask everything."""
    # A writer of the maps knows what it wrote itself: another one begins by reading them.
    rig.installer = Installer(rig.maps)
    try:
        _install(rig, interfaces, world.view())
        traffic = _Traffic(rig, interfaces)
        traffic.begin(world.view())
        rig.installer = Installer(_Stepped(rig.maps, traffic.ask))  # type: ignore[arg-type]
        for slot, made in then:
            world = world.changed(slot, made)
            traffic.begin(world.view())
            rig.network.run(_install, rig, interfaces, world.view())
            traffic.done()
            assert not traffic.wrong, (slot, made)
    finally:
        rig.installer = Installer(rig.maps)


def test_after_each_single_write_the_old_or_the_new_state_answers(rig: Rig, interfaces: dict[str, int]) -> None:

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(worlds(), st.lists(changes(), min_size=5, max_size=10))
    def hold(world: World, then: list[tuple[str, Object | None]]) -> None:
        _step(rig, interfaces, world, then)

    hold()


def test_a_policy_that_tells_peers_apart_closes_and_opens_nothing_on_its_way(
    rig: Rig, interfaces: dict[str, int]
) -> None:
    """The peers' identities and the subjects' sets change together; a pod that both states let in stays in."""

    def pod(number: int, **labels: str) -> Object:
        return made_of(
            "Pod", f"a/p{number}", metadata={"labels": labels}, spec={"nodeName": OWN if number < 2 else "n1"},
            status={"podIPs": [{"ip": f"10.0.0.{number + 8}"}, {"ip": f"fd00::{number + 8}"}], "phase": "Running"},
        )  # fmt: skip

    def policy(*keys: str) -> Object:
        peers = [{"podSelector": {"matchLabels": {key: "1"}}} for key in keys]
        return made_of("NetworkPolicy", "a/np", spec={"podSelector": {}, "ingress": [{"from": peers}]})

    pods = {f"pod {number}": pod(number, **labels) for number, labels in enumerate(
        [{}, {}, {"x": "1"}, {"y": "1"}, {"x": "1", "y": "1"}])}  # fmt: skip
    world = World({**pods, "namespace a": made_of("Namespace", "a"), "policy": policy("x")})
    _step(rig, interfaces, world, [("policy", policy(*keys)) for keys in ("xy", "y", "yx", "x")])


def test_no_moment_is_outside_both_the_old_and_the_new_state(rig: Rig, interfaces: dict[str, int]) -> None:
    total = [0, 0, 0]

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(worlds(), st.lists(changes(), min_size=12, max_size=25))
    def hold(world: World, then: list[tuple[str, Object | None]]) -> None:
        traffic = _Traffic(rig, interfaces)
        traffic.begin(world.view())
        _install(rig, interfaces, world.view())
        thread = threading.Thread(target=lambda: rig.network.run(traffic.run))
        thread.start()
        try:
            for slot, made in then:
                world = world.changed(slot, made)
                traffic.begin(world.view())
                _install(rig, interfaces, world.view())
                traffic.done()
        finally:
            traffic.stop()
            thread.join()
        assert not traffic.wrong
        for at, count in enumerate((len(then), traffic.asked, traffic.between)):
            total[at] += count

    hold()
    assert total[0] > 20
    assert total[2] > 500, "most of what is asked must meet a change"
