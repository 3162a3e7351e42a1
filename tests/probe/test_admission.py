"""Property tests: where policy does not fit the maps, nothing is more open than it, and what fits is exactly policy."""

from __future__ import annotations

import errno
import random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from enrich.model import Object, Pod
from enrich.policy.matching import PolicyView
from enrich.wire.batch import Reason, Verdict
from probe.admission import Admission
from probe.kernel.endpoints import Bound, Surroundings
from probe.kernel.installer import Installer
from probe.kernel.room import InstallError
from probe.ledger import Ledger
from probe.policy.compiler import Compiler
from tests.probe.kernel.memory_maps import MemoryMap, MemoryMaps
from tests.probe.policy.random_clusters import World, changes, expected, questions, subjects, worlds
from tests.probe.policy.test_compiler_property import ledger

_INDEX = {"p0": 10, "p1": 11}
"""Interfaces of the local pods."""
Change = tuple[str, Object | None]


class _Node:
    """A node that has only maps in memory."""

    def __init__(self, numbers: Ledger, maps: MemoryMaps) -> None:
        self.numbers, self.maps = numbers, maps
        self.now = 0.0
        self.restart()

    def restart(self) -> None:
        self.compiler = Compiler(self.numbers)
        self.admission = Admission(self.compiler, Installer(self.maps), lambda: self.now)  # type: ignore[arg-type]

    def install(self, view: PolicyView) -> None:
        local = subjects(view)
        bound = [
            Bound(_INDEX[pod.name], self.numbers.number_of("endpoint", pod.uid, {}), pod.uid, pod.ips) for pod in local
        ]
        self.admission.install(view, local, bound, Surroundings(), lambda: None)

    def check(self, view: PolicyView) -> None:
        """Compare every verdict with the engine's."""
        closed = {(name.namespace, name.name) for name in self.admission.incomplete}
        for asked in questions(view):
            decision = expected(view, asked)
            if decision is None:
                continue
            pod, direction, ip, protocol, port = asked
            outcome = self.maps.outcome(_INDEX[pod.name], direction, ip, protocol, port)
            if (pod.namespace, pod.name) in closed:
                assert outcome.verdict == Verdict.DENY
                assert outcome.reason in (Reason.POLICY_INCOMPLETE, Reason.NOT_READY)
            else:
                named = self.compiler.desired.rules.get(outcome.rule, ())
                assert (outcome.verdict, outcome.reason, named) == decision, asked


sizes = st.fixed_dictionaries(
    {
        "policy_entries": st.integers(1, 40),
        "port_entries": st.integers(1, 40),
        "addresses": st.integers(1, 60),
        "endpoints": st.sampled_from([1, 2, 2, 2]),
    }
)


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(worlds(), st.lists(st.lists(changes(), max_size=3), max_size=5), sizes, st.integers(0, 3))
def test_what_fits_is_exactly_policy_and_the_rest_is_closed(
    world: World, steps: list[list[Change]], limits: dict[str, int], restart_at: int
) -> None:
    with ledger() as numbers:
        node = _Node(numbers, MemoryMaps(limits))
        for number, step in enumerate([[], *steps]):
            for slot, made in step:
                world = world.changed(slot, made)
            if number == restart_at:
                node.restart()
            node.install(world.view())
            node.check(world.view())


@settings(max_examples=40, deadline=None, phases=[Phase.generate])
@given(worlds(), st.lists(changes(), min_size=1, max_size=5), st.integers(0, 1 << 16), st.integers(1, 40))
def test_a_kernel_that_refuses_writes_opens_nothing(world: World, steps: list[Change], seed: int, one_in: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    unwilling = [False]
    with ledger() as numbers:
        node = _Node(numbers, MemoryMaps({}, lambda: unwilling[0] and chance.randrange(one_in) == 0))
        node.install(world.view())
        installed = world.view()
        for slot, made in steps:
            unwilling[0] = True
            world = world.changed(slot, made)
            epoch = dict(node.maps._config)
            try:
                node.install(world.view())
            except InstallError:
                if node.maps._config == epoch:
                    # The state before is in force.
                    node.check(installed)
                    continue
            installed = world.view()
            node.check(installed)
        unwilling[0] = False
        for _ in range(2):
            node.now += 100
            node.install(world.view())
        assert not node.admission.incomplete
        node.check(world.view())


class _Short(MemoryMap):
    """A map that is larger than what the kernel has memory for, which is ``room`` entries."""

    def __init__(self, name: str, room: int) -> None:
        super().__init__(name, 1 << 16, lambda: False)
        self._room = room

    def set(self, key: bytes, value: bytes) -> None:
        if key not in self.content and len(self.content) >= self._room:
            raise OSError(errno.ENOMEM, "no memory")
        super().set(key, value)


def test_addresses_of_the_node_for_which_the_kernel_has_no_memory_keep_no_policy_from_being_installed() -> None:
    maps = MemoryMaps({})
    maps._maps["local_addresses"] = _Short("local_addresses", 40)
    around = Surroundings(node=frozenset(f"10.96.0.{number}" for number in range(1, 101)))
    pods = [Pod("shop", f"web-{number}", f"uid-{number}", {}, (f"10.0.0.{number}",), "n1") for number in (1, 2)]
    bound = [Bound(number, number, pod.uid, pod.ips) for number, pod in enumerate(pods, 1)]
    with ledger() as numbers:
        node = _Node(numbers, maps)
        for count in (1, 2):
            for _ in range(2):
                view = PolicyView({}, {}, {}, {}, {})
                node.admission.install(view, pods[:count], bound[:count], around, lambda: None)
                assert node.admission.unlisted >= 60
            assert not node.admission.incomplete
            assert {one.index for one in bound[:count]} <= node.admission._installer.endpoints.keys()


def test_a_pod_for_which_the_kernel_has_no_memory_is_closed_for_the_map_that_lacks_it() -> None:
    for short in ("endpoints", "local_addresses"):
        maps = MemoryMaps({})
        maps._maps[short] = _Short(short, 2)
        pods = [Pod("shop", f"web-{number}", f"uid-{number}", {}, (f"10.0.0.{number}",), "n1") for number in (1, 2, 3)]
        bound = [Bound(number, number, pod.uid, pod.ips) for number, pod in enumerate(pods, 1)]
        with ledger() as numbers:
            node = _Node(numbers, maps)
            node.admission.install(PolicyView({}, {}, {}, {}, {}), pods, bound, Surroundings(), lambda: None)
            [reason] = node.admission.incomplete.values()
            assert reason == f"the map {short} is full: raise WEIR_{short.upper()}"


def test_addresses_of_the_node_that_others_kept_out_until_the_switch_are_installed_soon_after_it() -> None:
    old, new = (frozenset(f"10.{second}.0.{number}" for number in range(1, 41)) for second in (96, 97))
    with ledger() as numbers:
        node = _Node(numbers, MemoryMaps({"local_addresses": 40}))
        found = []
        for held in (old, new, new, new):
            node.admission.install(PolicyView({}, {}, {}, {}, {}), [], [], Surroundings(node=held), lambda: None)
            found.append((node.admission.unlisted, node.admission.retry_in()))
        assert found == [(0, None), (40, 1.0), (0, None), (0, None)]
