"""For random clusters and policies, the loaded program with the installed maps answers as the pure engine does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from enrich.model import Object
from enrich.policy.matching import PolicyView
from enrich.wire.batch import PolicyRef, Verdict
from probe.kernel.installer import Installer
from probe.kernel.layout import Config
from tests.enrich.policy.test_decide import made as made_of
from tests.kernel.rig import Rig
from tests.kernel.stepping import Answer, Killed, Stepped, Traffic, install, is_passed, judged, killed_after
from tests.probe.policy.random_clusters import OWN, Asked, World, changes, expected, questions, worlds

pytestmark = [pytest.mark.kernel, pytest.mark.property, pytest.mark.one_mode]

Change = tuple[str, Object | None]
"""Slot of the world, and the object that is in it from now on."""
_FULL = 400
"""Denied connections after which the windows are emptied."""


@pytest.fixture
def interfaces(rig: Rig) -> Iterator[dict[str, int]]:
    """Of the two local pods. How programs are attached makes no difference to one that is asked by BPF_PROG_RUN."""
    pods = [rig.net.pod(rig.node) for _ in range(2)]
    for pod in pods:
        assert rig.attachments.learn(pod.index, bound=True)
    yield {f"p{number}": pod.index for number, pod in enumerate(pods)}
    for pod in pods:
        rig.net.remove(pod)


def test_program_and_engine_agree_on_every_pair(rig: Rig, interfaces: dict[str, int]) -> None:
    rig.maps.configure(Config.POD_DENIED_FLOWS, 1 << 20)
    # A window that goes on would fill the map: past that, denials are counted and not told one by one.
    rig.maps.configure(Config.WINDOW_NS, 0)

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(worlds(), st.lists(changes(), min_size=1, max_size=6))
    def agree(world: World, then: list[Change]) -> None:
        _install_and_ask(rig, interfaces, world.view())
        for slot, made in then:
            world = world.changed(slot, made)
        _install_and_ask(rig, interfaces, world.view())

    agree()


def _install_and_ask(rig: Rig, interfaces: dict[str, int], view: PolicyView) -> None:
    install(rig, interfaces, view)
    rig.drain()
    rig.network.run(lambda: _ask(rig, interfaces, view))


def _ask(rig: Rig, interfaces: dict[str, int], view: PolicyView) -> None:
    for number, asked in enumerate(questions(view)):
        if expected(view, asked) is None:
            continue
        if number % _FULL == 0:
            rig.windows.rotate()
            rig.windows.rotate()
            rig.drain()
        assert _answers(rig, interfaces, asked) == judged(view, asked), asked


def _answers(rig: Rig, interfaces: dict[str, int], asked: Asked) -> list[Answer]:
    passed = is_passed(rig, interfaces, asked)
    rows = rig.drain()
    verdicts = [int(row["verdict"] & 0x7F) for row in rows]
    assert passed == (Verdict.DENY not in verdicts)
    rules = [rig.numbers.meaning("rule", int(row["rule"])) or () for row in rows]
    return [
        (verdict, int(row["reason"]), tuple(PolicyRef(**entry) for entry in rule))
        for verdict, row, rule in zip(verdicts, rows, rules, strict=True)
    ]


def _step(rig: Rig, interfaces: dict[str, int], world: World, then: list[Change]) -> None:
    """Install a world and then each change; after every single write, ask everything."""
    # A writer of the maps knows what it wrote itself: another one begins by reading them.
    rig.installer = Installer(rig.maps)
    try:
        install(rig, interfaces, world.view())
        traffic = Traffic(rig, interfaces)
        traffic.begin(world.view())
        rig.installer = Installer(Stepped(rig.maps, traffic.ask))  # type: ignore[arg-type]
        for slot, made in then:
            world = world.changed(slot, made)
            traffic.begin(world.view())
            rig.network.run(install, rig, interfaces, world.view())
            traffic.done()
            assert not traffic.wrong, (slot, made)
    finally:
        rig.installer = Installer(rig.maps)


def _pod(number: int, namespace: str = "b", **labels: str) -> Object:
    """Numbers 0 and 1 are pods of this node, as those of tests.probe.policy.random_clusters."""
    return made_of(
        "Pod", f"{namespace}/p{number}", metadata={"labels": labels}, spec={"nodeName": OWN if number < 2 else "n1"},
        status={"podIPs": [{"ip": f"10.0.0.{number + 8}"}, {"ip": f"fd00::{number + 8}"}], "phase": "Running"},
    )  # fmt: skip


def _admin_denies(namespace: str, **labels: str) -> Object:
    peers = [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": labels}}}]
    subject = {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    rule = {"action": "Deny", "from": peers}
    return made_of(
        "ClusterNetworkPolicy", "deny", spec={"tier": "Admin", "priority": 1, "subject": subject, "ingress": [rule]}
    )


def _worlds_with_a_deny() -> World:
    """An Admin tier closes namespace b to x=1; an egress policy gives its pods a policy set of their own."""
    return World({
        "namespace a": made_of("Namespace", "a"), "namespace b": made_of("Namespace", "b"),
        "cluster policy 0": _admin_denies("b", x="1"),
        "policy 0": made_of("NetworkPolicy", "b/np", spec={"podSelector": {}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"podSelector": {"matchLabels": {"y": "1"}}}]}]}),
        "pod 1": _pod(1, "a"), "pod 2": _pod(2, x="1", y="1"),
    })  # fmt: skip


NEW_POD: list[Change] = [("pod 0", _pod(0))]
"""The new pod's set and the identity that its policies tell apart come together: neither may be judged without the
other. It was open to pod 2 while it was installed."""
REBOUND: list[Change] = [("pod 0", _pod(0, "a")), ("pod 0", _pod(0)), ("pod 0", _pod(0, "a", x="1"))]
"""One interface, one address, another pod each time."""
COMES_AND_GOES: list[Change] = [("pod 0", _pod(0)), ("pod 0", None), ("pod 0", _pod(0, "a")), ("pod 1", None),
                                ("pod 0", _pod(0)), ("pod 1", _pod(1, x="1"))]  # fmt: skip

any_change = st.one_of(changes(), changes(), changes(), st.tuples(st.sampled_from(["pod 0", "pod 1"]), st.none()))
"""Also one that removes a local pod, which comes back as another one or the same."""


def test_after_each_single_write_the_old_or_the_new_state_answers(rig: Rig, interfaces: dict[str, int]) -> None:

    @settings(
        max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
    )
    @given(worlds(), st.lists(any_change, min_size=5, max_size=10))
    @example(_worlds_with_a_deny(), NEW_POD)
    @example(_worlds_with_a_deny(), REBOUND)
    @example(_worlds_with_a_deny(), COMES_AND_GOES)
    def hold(world: World, then: list[Change]) -> None:
        _step(rig, interfaces, world, then)

    hold()


def _die_and_go_on(rig: Rig, interfaces: dict[str, int], world: World, then: list[Change], writes: int) -> bool:
    """Kill the probe after some writes of the first change; another one installs the rest. Return whether it died."""
    rig.installer = Installer(rig.maps)
    try:
        install(rig, interfaces, world.view())
        traffic = Traffic(rig, interfaces)
        traffic.begin(world.view())
        epoch = rig.maps.config(Config.EPOCH)
        has_died = False
        rig.installer = Installer(Stepped(rig.maps, killed_after(writes)))  # type: ignore[arg-type]
        for slot, made in then:
            world = world.changed(slot, made)
            traffic.begin(world.view())
            try:
                rig.network.run(install, rig, interfaces, world.view())
            except Killed:
                has_died = True
                traffic.done() if rig.maps.config(Config.EPOCH) != epoch else traffic.abandon()
                traffic.begin(world.view())
                rig.network.run(traffic.ask)
                # What the next probe does at its start: it reads what it adopts from the maps.
                rig.installer = Installer(Stepped(rig.maps, traffic.ask))  # type: ignore[arg-type]
                rig.network.run(install, rig, interfaces, world.view())
            traffic.done()
            rig.network.run(traffic.ask)
            assert not traffic.wrong, (slot, made, writes)
            epoch = rig.maps.config(Config.EPOCH)
        return has_died
    finally:
        rig.installer = Installer(rig.maps)


@pytest.mark.timeout(900)  # each write is followed by a wait for RCU, which is long while the machine is busy
@pytest.mark.parametrize("then", [NEW_POD, REBOUND, COMES_AND_GOES], ids=["new", "rebound", "comes and goes"])
def test_a_probe_that_is_killed_after_any_write_leaves_a_whole_state(
    rig: Rig, interfaces: dict[str, int], then: list[Change]
) -> None:
    writes = 1
    while _die_and_go_on(rig, interfaces, _worlds_with_a_deny(), then, writes):
        writes += 1
    assert writes > 10


def test_the_next_probe_may_want_anything_else_than_the_killed_one(rig: Rig, interfaces: dict[str, int]) -> None:

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(worlds(), st.lists(any_change, min_size=2, max_size=4), st.integers(1, 40))
    def hold(world: World, then: list[Change], writes: int) -> None:
        _die_and_go_on(rig, interfaces, world, then, writes)

    hold()


def test_a_policy_that_tells_peers_apart_closes_and_opens_nothing_on_its_way(
    rig: Rig, interfaces: dict[str, int]
) -> None:
    """The peers' identities and the subjects' sets change together; a pod that both states let in stays in."""

    def policy(*keys: str) -> Object:
        peers = [{"podSelector": {"matchLabels": {key: "1"}}} for key in keys]
        return made_of("NetworkPolicy", "a/np", spec={"podSelector": {}, "ingress": [{"from": peers}]})

    pods = {f"pod {number}": _pod(number, "a", **labels) for number, labels in enumerate(
        [{}, {}, {"x": "1"}, {"y": "1"}, {"x": "1", "y": "1"}])}  # fmt: skip
    world = World({**pods, "namespace a": made_of("Namespace", "a"), "policy": policy("x")})
    _step(rig, interfaces, world, [("policy", policy(*keys)) for keys in ("xy", "y", "yx", "x")])


def test_no_moment_is_outside_both_the_old_and_the_new_state(rig: Rig, interfaces: dict[str, int]) -> None:
    total = [0, 0, 0]

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(worlds(), st.lists(any_change, min_size=12, max_size=25))
    def hold(world: World, then: list[Change]) -> None:
        traffic = Traffic(rig, interfaces)
        traffic.begin(world.view())
        install(rig, interfaces, world.view())
        thread = threading.Thread(target=lambda: rig.network.run(traffic.run))
        thread.start()
        try:
            for slot, made in then:
                world = world.changed(slot, made)
                traffic.begin(world.view())
                install(rig, interfaces, world.view())
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
