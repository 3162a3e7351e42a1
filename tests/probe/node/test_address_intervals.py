"""Which address intervals the probe publishes, by what it observed, and what the next probe makes of its file."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

from enrich.model import Owner, Pod
from enrich.wire.address_interval import AddressInterval, decode_interval, decode_interval_key
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock

S = 1_000_000_000
DAY = 86_400 * S


class Node:
    """A node whose clock a test sets, and what its probe has published."""

    def __init__(self, path: Path) -> None:
        self.now = 1_790_000_000 * S
        self.path = path
        self.published: list[dict[bytes, bytes | None]] = []
        self.start()

    def start(self) -> None:
        """Start a probe, or the next one."""
        self.clock = LinkClock(lambda: self.now)
        self.intervals = AddressIntervals(
            "n1", self.path, lambda changes: self.published.append(dict(changes)), self.clock, lambda: self.now
        )
        self.intervals.start("c1")

    def latest(self) -> dict[str, AddressInterval | None]:
        """Return the topic's records after compaction, by address."""
        last: dict[bytes, bytes | None] = {}
        for changes in self.published:
            last |= changes
        return {
            decode_interval_key(key).ip: decode_interval(value, key) if value else None for key, value in last.items()
        }

    def link(self, index: int, kind: int = 16, changed: int = 0xFFFFFFFF, suspended: int = 0) -> None:
        """Observe a link event now; the probe was suspended for so many nanoseconds before."""
        message = struct.pack("=IHHIIBBHiII", 32, kind, 0, 0, 0, 0, 0, 1, index, 0, changed)
        self.clock.caught_up_ns = self.now - suspended
        self.clock.observe(message)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "address-intervals")


def make_pod(name: str, *ips: str, started_ns: int = 0, acknowledged_ns: int = 0) -> Pod:
    return Pod(
        "shop", name, f"uid-{name}", {"app": name}, ips, "n1", owner=Owner("ReplicaSet", "r"), started_ns=started_ns,
        acknowledged_ns=acknowledged_ns,
    )  # fmt: skip


def test_an_interval_lasts_from_the_interface_appearing_to_its_disappearing(node: Node) -> None:
    appeared = node.now
    node.link(5)
    node.now += 3 * S
    pod = make_pod("web", "10.0.0.1", "fd00::1")
    node.intervals.update({5: pod}, node.now)
    for ip in pod.ips:
        interval = node.latest()[ip]
        assert interval is not None
        assert (interval.first, interval.start, interval.end) == (appeared, appeared, None)
        assert (interval.uid, interval.labels) == (pod.uid, {"app": "web"})
        assert interval.as_pod().owner == pod.owner
    node.now += 60 * S
    node.link(5, kind=17)
    disappeared = node.now
    node.now += 2 * S
    node.intervals.update({}, node.now)
    interval = node.latest()["10.0.0.1"]
    assert interval is not None
    assert (interval.end, interval.last) == (disappeared, disappeared)


def test_a_label_that_changes_leaves_the_interval(node: Node) -> None:
    node.link(5)
    pod = make_pod("web", "10.0.0.1")
    given = [{"app": "web", "role": "a"}, {"app": "web", "role": "b", "new": "x"}, {"app": "web", "role": "a"}]
    for labels in given:
        node.now += S
        node.intervals.update({5: msgspec.structs.replace(pod, labels=labels)}, node.now)
    interval = node.latest()["10.0.0.1"]
    assert interval is not None
    assert (interval.labels, interval.last) == ({"app": "web"}, None)
    assert len(node.published) == 2


def test_an_interval_that_goes_on_after_all_has_no_label_that_has_changed(node: Node) -> None:
    node.link(5)
    pod = msgspec.structs.replace(make_pod("web", "10.0.0.1"), labels={"app": "web", "role": "a"})
    relabelled = msgspec.structs.replace(pod, labels={"app": "web", "role": "b"})
    for bound in ({5: pod}, {}, {5: relabelled}):
        node.now += S
        node.intervals.update(bound, node.now)
    interval = node.latest()["10.0.0.1"]
    assert interval is not None
    assert (interval.labels, interval.end, interval.last) == ({"app": "web"}, None, None)


def test_a_suspended_probe_gives_wide_bounds(node: Node) -> None:
    node.link(5, suspended=4 * S)
    appeared = node.now
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    node.now += 60 * S
    node.link(5, kind=17, suspended=3 * S)
    node.intervals.update({}, node.now)
    interval = node.latest()["10.0.0.1"]
    assert interval is not None
    assert (interval.first, interval.start) == (appeared - 4 * S, appeared)
    assert (interval.end, interval.last) == (node.now - 3 * S, node.now)


def test_an_unobserved_end_is_after_the_pod_was_last_seen(node: Node) -> None:
    pods, seen = {5: make_pod("web", "10.0.0.1")}, node.now
    for _ in range(2):
        node.intervals.update(pods, seen)
        node.now += 10 * S
    node.intervals.update({}, node.now)
    interval = node.latest()["10.0.0.1"]
    assert interval is not None
    assert (interval.end, interval.last) == (seen, node.now)


def test_a_changed_interface_has_not_appeared(node: Node) -> None:
    node.link(5, changed=1)
    begun = node.now - 100 * S
    node.intervals.update({5: make_pod("web", "10.0.0.1", started_ns=begun, acknowledged_ns=begun)}, node.now)
    interval = node.latest()["10.0.0.1"]
    assert interval is not None
    assert (interval.first, interval.start) == (begun, begun + S)


def test_an_interval_is_published_again_once_a_day_only(node: Node) -> None:
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    for _ in range(3):
        node.now += 30 * S
        node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    assert len(node.published) == 1
    node.now += DAY
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    assert len(node.published) == 2


def test_a_pod_that_was_there_before_the_probe_has_the_bounds_of_the_api_server(node: Node) -> None:
    begun = node.now - 100 * S
    node.intervals.update({5: make_pod("web", "10.0.0.1", started_ns=begun + 5 * S, acknowledged_ns=begun)}, node.now)
    interval = node.latest()["10.0.0.1"]
    assert interval is not None
    assert (interval.first, interval.start) == (begun, begun + 6 * S)


def test_the_next_probe_ends_the_intervals_of_pods_that_disappeared_and_goes_on_with_the_others(node: Node) -> None:
    node.link(5)
    appeared = node.now
    pods = {5: make_pod("stays", "10.0.0.1"), 6: make_pod("goes", "10.0.0.2")}
    node.intervals.update(pods, node.now)
    seen = node.now = node.now + 50 * S
    node.intervals.update(pods, node.now)
    node.now += 30 * S
    node.start()
    node.intervals.update({5: pods[5]}, node.now)
    stays, goes = node.latest()["10.0.0.1"], node.latest()["10.0.0.2"]
    assert stays is not None
    assert goes is not None
    assert (stays.start, stays.last) == (appeared, None)
    assert (goes.end, goes.last) == (seen, node.now)
    assert b"c1/n1/10.0.0.1/uid-stays" in node.published[-1], "published again, in case Kafka does not have it"


def test_a_pod_that_disappears_after_a_kill_was_seen_a_second_before_it_at_least(node: Node) -> None:
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    for _ in range(30):
        node.now += S
        node.intervals.confirm(node.now)
    seen = node.now
    node.now += S // 2
    node.intervals.confirm(node.now)
    node.now += S // 4
    node.start()
    node.intervals.update({}, node.now)
    goes = node.latest()["10.0.0.1"]
    assert goes is not None
    assert (goes.end, goes.last) == (seen, node.now)


def test_a_pod_that_disappears_after_a_stop_was_seen_until_the_stop(node: Node) -> None:
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    stopped = node.now = node.now + S // 4
    node.intervals.confirm(stopped, at_once=True)
    node.now += S
    node.start()
    node.intervals.update({}, node.now)
    goes = node.latest()["10.0.0.1"]
    assert goes is not None
    assert (goes.end, goes.last) == (stopped, node.now)


def test_what_is_not_known_confirms_nothing(node: Node) -> None:
    node.intervals.confirm(node.now, at_once=True)
    assert not node.path.exists(), "no pod was seen yet"
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    seen, node.now = node.now, node.now + 5 * S
    node.intervals.confirm(0, at_once=True)
    assert node.path.stat().st_mtime_ns == seen


def test_a_clock_that_is_set_back_does_not_name_a_pod_for_longer(node: Node) -> None:
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    for _ in range(100):
        node.now += S
        node.intervals.confirm(node.now)
    node.now -= 60 * S
    for _ in range(3):
        node.now += S
        node.intervals.confirm(node.now)
        assert node.path.stat().st_mtime_ns == node.now, "every second, as before"
    seen, node.now = node.now, node.now + 10 * S
    node.start()
    node.intervals.update({}, node.now)
    goes = node.latest()["10.0.0.1"]
    assert goes is not None
    assert (goes.end, goes.last) == (seen, node.now)


def test_while_no_probe_runs_a_clock_that_is_set_back_leaves_the_end_open_from_the_start_on(node: Node) -> None:
    node.link(5)
    begun = node.now
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    node.now += 100 * S
    node.intervals.confirm(node.now)
    node.now -= 60 * S
    node.start()
    node.intervals.update({}, node.now)
    goes = node.latest()["10.0.0.1"]
    assert goes is not None
    assert (goes.end, goes.last) == (begun, node.now)


def test_an_interval_is_deleted_from_the_topic_a_day_after_its_end(node: Node) -> None:
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    node.now += 10 * S
    node.intervals.update({}, node.now)
    assert node.latest()["10.0.0.1"] is not None
    node.now += 26 * DAY // 24
    node.intervals.update({}, node.now)
    assert node.latest() == {"10.0.0.1": None}
    node.now += DAY
    node.start()
    node.intervals.update({}, node.now)
    assert node.latest() == {"10.0.0.1": None}


def test_a_damaged_file_is_reported_and_replaced(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.path.write_text("{")
    node.start()
    assert "cannot be read" in capsys.readouterr().out
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    assert node.latest()["10.0.0.1"] is not None
    assert {path.name for path in node.path.parent.iterdir()} == {node.path.name, f"{node.path.name}.damaged"}


def test_a_node_that_joins_another_cluster_ends_the_intervals_of_the_first(node: Node) -> None:
    node.link(5)
    node.intervals.update({5: make_pod("web", "10.0.0.1")}, node.now)
    node.link(6)
    node.now += 60 * S
    new = make_pod("new", "10.0.0.2")
    node.intervals.update({6: new}, node.now)
    before = node.latest()
    node.intervals.start("c2")
    web, other = node.latest()["10.0.0.1"], node.latest()["10.0.0.2"]
    assert web == before["10.0.0.1"], "it had ended"
    assert web is not None
    assert (web.cluster, web.last is not None) == ("c1", True)
    # Published in the first cluster's name before it was known to be another one.
    published = [decode_interval(value, key) for one in node.published for key, value in one.items() if value]
    latest = {(one.cluster, one.ip): one for one in published}
    assert latest["c1", "10.0.0.2"].last == node.now
    assert latest["c2", "10.0.0.2"].last is None
    assert other == latest["c2", "10.0.0.2"]
    assert ("c2", "10.0.0.1") not in latest


def test_a_disk_that_is_full_keeps_no_interval_from_the_topic(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True
    write = AddressIntervals._write

    def refuse(self: AddressIntervals, *, whole: bool) -> None:
        if full:
            raise OSError(28, "No space left on device")
        write(self, whole=whole)

    monkeypatch.setattr(AddressIntervals, "_write", refuse)
    node.link(5)
    pods = {5: make_pod("web", "10.0.0.1")}
    node.intervals.update(pods, node.now)
    assert node.latest()["10.0.0.1"] is not None
    assert "No space left on device" in (node.intervals.problem or "")
    full = False
    node.intervals.update(pods, node.now)
    assert node.intervals.problem is None
    assert "10.0.0.1" in node.path.read_text()


def test_a_full_disk_does_not_hide_what_began_and_ended_before_the_cluster_changed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, goes, new = make_pod("stays", "10.0.0.1"), make_pod("goes", "10.0.0.2"), make_pod("new", "10.0.0.3")
    node.intervals.update({5: stays, 6: goes}, node.now)

    def refuse(_self: AddressIntervals, *, whole: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AddressIntervals, "_write", refuse)
    node.now += 60 * S
    node.link(7)
    node.intervals.update({5: stays, 7: new}, node.now)
    ended = node.latest()["10.0.0.2"]
    node.now += 60 * S
    node.intervals.start("c2")
    latest: dict[tuple[str, str], AddressInterval] = {}
    for changes in node.published:
        for key, value in changes.items():
            if value is not None:
                one = decode_interval(value, key)
                latest[one.cluster, one.ip] = one
    assert latest["c1", "10.0.0.2"] == ended, "it had ended already"
    assert latest["c1", "10.0.0.3"].last == node.now, "only memory had it"
    assert latest["c2", "10.0.0.3"].last is None


def test_intervals_say_how_wrong_the_clock_is_and_follow_it_when_it_is_set(node: Node) -> None:
    ahead: int | None = None
    node.intervals.ahead_ns = lambda: ahead
    node.link(5)
    appeared, web = node.now, make_pod("web", "10.0.0.1")
    node.now += 10 * S
    node.intervals.update({5: web}, node.now)

    def truth() -> tuple[int, int, int | None]:
        """Update, and return the topic's record by the brokers' clocks, and by how much they differ."""
        node.now += S
        node.intervals.update({5: web}, node.now)
        interval = node.latest()["10.0.0.1"]
        assert interval is not None
        return interval.ahead, interval.corrected().first, interval.corrected().start

    assert truth() == (0, appeared, appeared), "the offset is not known yet"
    ahead = 4 * S
    assert truth() == (4 * S, appeared - 4 * S, appeared - 4 * S)
    published = len(node.published)
    assert truth() == (4 * S, appeared - 4 * S, appeared - 4 * S)
    assert len(node.published) == published
    ahead, node.now = 0, node.now - 4 * S
    assert truth() == (0, appeared - 4 * S, appeared - 4 * S), "the clock was set right"
    node.link(5, kind=17)
    disappeared = node.now
    node.intervals.update({}, node.now)
    ended = node.latest()["10.0.0.1"]
    assert ended is not None
    assert (ended.end, ended.last) == (disappeared, disappeared)
    ahead = 9 * S
    node.intervals.update({}, node.now)
    assert node.latest()["10.0.0.1"] == ended, "what has ended is by the clock of then"
