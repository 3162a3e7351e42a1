"""Since when and until when pods have their addresses, by what the probe saw, and what the next one makes of it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from enrich.model import Owner, Pod
from enrich.wire.address_interval import AddressInterval, decode_interval, decode_interval_key
from probe.node.address_intervals import AddressIntervals

S = 1_000_000_000
DAY = 86_400 * S


class Node:
    """A node with a clock by hand, and what its probe told."""

    def __init__(self, path: Path) -> None:
        self.now = 1_790_000_000 * S
        self.path = path
        self.told: list[dict[bytes, bytes | None]] = []
        self.start()

    def start(self) -> None:
        """A (new) probe."""
        self.holds = AddressIntervals(
            "n1", self.path, lambda changes: self.told.append(dict(changes)), lambda: self.now
        )
        self.holds.begin("c1")

    def said(self) -> dict[str, AddressInterval | None]:
        """The topic after compaction, by address."""
        last: dict[bytes, bytes | None] = {}
        for changes in self.told:
            last |= changes
        return {decode_interval_key(key).ip: decode_interval(value) if value else None for key, value in last.items()}

    def link(self, index: int, kind: int = 16, changed: int = 0xFFFFFFFF, held_up: int = 0) -> None:
        message = struct.pack("=IHHIIBBHiII", 32, kind, 0, 0, 0, 0, 0, 1, index, 0, changed)
        self.holds.links(message, self.now - held_up)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "holds")


def make_pod(name: str, *ips: str, started_ns: int = 0, acknowledged_ns: int = 0) -> Pod:
    return Pod(
        "shop", name, f"uid-{name}", {"app": name}, ips, "n1", owner=Owner("ReplicaSet", "r"), started_ns=started_ns,
        acknowledged_ns=acknowledged_ns,
    )  # fmt: skip


def test_a_hold_is_as_long_as_the_interface(node: Node) -> None:
    came = node.now
    node.link(5)
    node.now += 3 * S
    pod = make_pod("web", "10.0.0.1", "fd00::1")
    node.holds.bound({5: pod}, node.now)
    for ip in pod.ips:
        hold = node.said()[ip]
        assert hold is not None
        assert (hold.first, hold.start, hold.end, hold.uid, hold.labels) == (came, came, None, pod.uid, {"app": "web"})
        assert hold.as_pod().owner == pod.owner
    node.now += 60 * S
    node.link(5, kind=17)
    went = node.now
    node.now += 2 * S
    node.holds.bound({}, node.now)
    hold = node.said()["10.0.0.1"]
    assert hold is not None
    assert (hold.end, hold.last) == (went, went)


def test_a_probe_that_was_held_up_does_not_know_exactly(node: Node) -> None:
    node.link(5, held_up=4 * S)
    came = node.now
    node.holds.bound({5: make_pod("web", "10.0.0.1")}, node.now)
    node.now += 60 * S
    node.link(5, kind=17, held_up=3 * S)
    node.holds.bound({}, node.now)
    hold = node.said()["10.0.0.1"]
    assert hold is not None
    assert (hold.first, hold.start) == (came - 4 * S, came)
    assert (hold.end, hold.last) == (node.now - 3 * S, node.now)


def test_a_pod_was_seen_when_the_interfaces_were_looked_at(node: Node) -> None:
    pods, looked = {5: make_pod("web", "10.0.0.1")}, node.now
    for _ in range(2):
        node.holds.bound(pods, looked)
        node.now += 10 * S
    node.holds.bound({}, node.now)
    hold = node.said()["10.0.0.1"]
    assert hold is not None
    assert (hold.end, hold.last) == (looked, node.now)


def test_an_interface_that_changes_has_not_come(node: Node) -> None:
    node.link(5, changed=1)
    begun = node.now - 100 * S
    node.holds.bound({5: make_pod("web", "10.0.0.1", started_ns=begun, acknowledged_ns=begun)}, node.now)
    hold = node.said()["10.0.0.1"]
    assert hold is not None
    assert (hold.first, hold.start) == (begun, begun + S)


def test_nothing_is_told_twice_but_once_a_day(node: Node) -> None:
    node.holds.bound({5: make_pod("web", "10.0.0.1")}, node.now)
    for _ in range(3):
        node.now += 30 * S
        node.holds.bound({5: make_pod("web", "10.0.0.1")}, node.now)
    assert len(node.told) == 1
    node.now += DAY
    node.holds.bound({5: make_pod("web", "10.0.0.1")}, node.now)
    assert len(node.told) == 2


def test_a_pod_that_was_there_before_the_probe_began_who_knows_when(node: Node) -> None:
    begun = node.now - 100 * S
    node.holds.bound({5: make_pod("web", "10.0.0.1", started_ns=begun + 5 * S, acknowledged_ns=begun)}, node.now)
    hold = node.said()["10.0.0.1"]
    assert hold is not None
    assert (hold.first, hold.start) == (begun, begun + 6 * S)


def test_the_next_probe_ends_what_went_meanwhile_and_begins_nothing_anew(node: Node) -> None:
    node.link(5)
    came = node.now
    pods = {5: make_pod("stays", "10.0.0.1"), 6: make_pod("goes", "10.0.0.2")}
    node.holds.bound(pods, node.now)
    seen = node.now = node.now + 50 * S
    node.holds.bound(pods, node.now)
    node.now += 30 * S
    node.start()
    node.holds.bound({5: pods[5]}, node.now)
    stays, goes = node.said()["10.0.0.1"], node.said()["10.0.0.2"]
    assert stays is not None
    assert goes is not None
    assert (stays.start, stays.last) == (came, None)
    assert (goes.end, goes.last) == (seen, node.now)
    assert b"c1/n1/10.0.0.1/uid-stays" in node.told[-1], "told again, should Kafka not have had it"


def test_a_hold_is_taken_back_a_day_after_its_end(node: Node) -> None:
    node.holds.bound({5: make_pod("web", "10.0.0.1")}, node.now)
    node.now += 10 * S
    node.holds.bound({}, node.now)
    assert node.said()["10.0.0.1"] is not None
    node.now += 26 * DAY // 24
    node.holds.bound({}, node.now)
    assert node.said() == {"10.0.0.1": None}
    node.now += DAY
    node.start()
    node.holds.bound({}, node.now)
    assert node.said() == {"10.0.0.1": None}


def test_a_file_that_is_broken_is_told_and_left(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.path.write_text("{")
    node.start()
    assert "cannot be read" in capsys.readouterr().out
    node.holds.bound({5: make_pod("web", "10.0.0.1")}, node.now)
    assert node.said()["10.0.0.1"] is not None
    assert list(node.path.parent.iterdir()) == [node.path]
