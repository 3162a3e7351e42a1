"""The limits of address intervals that have ended: of a node, and of the index."""

from __future__ import annotations

import pytest

from enrich.index.cluster import Change, Cluster
from enrich.index.ended_intervals import EndedIntervals
from enrich.index.intervals import SECOND
from enrich.model import Node, Pod
from enrich.wire.address_interval import AddressInterval

NOW = 1_000_000 * SECOND
TAIL = 900


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster(clock: Clock) -> Cluster:
    """An index with room for three ended intervals of a node, and eight in all."""
    made = Cluster(TAIL, 1.0, clock)
    made.addresses.ended.max_of_node, made.addresses.ended.max_ended = 3, 8
    return made


def interval(number: int, *, node: str = "n1", end: int | None = 0, ip: str = "") -> AddressInterval:
    """The interval of pod ``number``, which ended ``end`` seconds after number seconds ago, or is open."""
    start = NOW - 500 * SECOND + number * SECOND
    last = None if end is None else start + SECOND + end
    return AddressInterval(
        cluster="c", node=node, ip=ip or f"10.0.{len(node)}.{number}", uid=f"{node}-{number}", namespace="shop",
        pod=f"p{number}", first=start, start=start, end=last, last=last,
    )  # fmt: skip


def known(cluster: Cluster, *intervals: AddressInterval) -> list[bool]:
    """Whether each pod is named in the middle of its interval."""
    addresses = cluster.addresses
    return [addresses.owner_at(one.ip, one.start + SECOND // 2, one.node).pod is not None for one in intervals]


def test_the_interval_of_a_node_that_ended_first_goes_first_in_any_order(cluster: Cluster) -> None:
    given = [interval(number) for number in (5, 2, 9, 7)]
    for one in given:
        cluster.addresses.add_interval(one)
    assert known(cluster, *given) == [True, False, True, True]
    assert cluster.addresses.ended.dropped == {"node": 1, "index": 0}
    # The pod itself is forgotten, too.
    assert cluster.addresses.pod_by_uid("n1-2") is None


def test_what_was_dropped_is_not_said_to_be_no_pod(cluster: Cluster) -> None:
    cluster.addresses.set_complete_since(0)
    given = [interval(number) for number in range(4)]
    for one in given[:3]:
        cluster.addresses.add_interval(one)
    before = cluster.addresses.complete_since_ns()
    assert before < given[0].start
    cluster.addresses.add_interval(given[3])
    assert cluster.addresses.complete_since_ns() == given[0].last


def test_who_follows_at_an_address_is_not_named_for_the_time_of_a_dropped_interval(cluster: Cluster) -> None:
    addresses, shared = cluster.addresses, "10.0.2.1"
    before, after = interval(0, ip=shared, end=3 * SECOND), interval(3, ip=shared, end=None)
    for one in (before, after):
        addresses.add_interval(one)
    doubtful, sure = after.start + SECOND // 2, after.start + 10 * SECOND
    assert addresses.owner_at(shared, doubtful, "n1").ambiguous
    for number in range(10, 13):
        addresses.add_interval(interval(number))
    assert addresses.pod_by_uid("n1-0") is None
    assert addresses.owner_at(shared, doubtful, "n1").ambiguous
    found = addresses.owner_at(shared, sure, "n1").pod
    assert found is not None
    assert found.name == "p3"


def test_at_the_limit_of_the_index_the_node_that_has_most_loses_one(cluster: Cluster) -> None:
    cluster.addresses.ended.max_of_node = 100
    modest = [interval(number, node="n22") for number in range(2)]
    for one in [*modest, *(interval(number, node="n1") for number in range(50))]:
        cluster.addresses.add_interval(one)
    assert known(cluster, *modest) == [True, True]
    assert len(cluster.addresses.ended) == 8
    assert cluster.addresses.ended.dropped == {"node": 0, "index": 44}


def test_nodes_that_do_not_exist_have_the_share_of_one(cluster: Cluster) -> None:
    cluster.addresses.ended.max_ended = 100
    cluster.replace_all({kind: [Node("n1", "u", {})] if kind is Node else [] for kind in cluster.kinds})
    for number in range(20):
        cluster.addresses.add_interval(interval(number, node=f"made-up-{number}"))
    own = interval(1)
    cluster.addresses.add_interval(own)
    assert len(cluster.addresses.ended) == 3 + 1
    assert known(cluster, own) == [True]


def test_open_intervals_and_what_the_watch_knows_never_go(cluster: Cluster, clock: Clock) -> None:
    pod = Pod("shop", "p99", "n1-99", {}, ("10.0.9.9",), "n1", started_ns=NOW - 400 * SECOND)
    cluster.apply([Change("set", pod)])
    still = [interval(number, end=None) for number in range(10)]
    for one in [*still, *(interval(number) for number in range(20, 60))]:
        cluster.addresses.add_interval(one)
    assert known(cluster, *still) == [True] * 10
    cluster.apply([Change("delete", pod)])
    assert cluster.addresses.pod_by_uid("n1-99") is not None
    clock.now += (TAIL + 1) * SECOND
    cluster.apply([])
    assert cluster.addresses.pod_by_uid("n1-99") is None


def test_an_interval_that_is_published_again_counts_once_and_its_node_may_change(cluster: Cluster) -> None:
    for end in range(50):
        cluster.addresses.add_interval(interval(1, end=end))
    assert len(cluster.addresses.ended) == 1
    assert cluster.addresses.ended.dropped == {"node": 0, "index": 0}
    cluster.addresses.add_interval(interval(1, end=None))
    assert len(cluster.addresses.ended) == 0
    cluster.addresses.add_interval(interval(1))
    cluster.addresses.remove_interval("n1-1", interval(1).ip)
    assert (len(cluster.addresses.ended), cluster.addresses.size()) == (0, 0)


def test_an_end_in_the_future_is_forgotten_with_the_others(cluster: Cluster, clock: Clock) -> None:
    cluster.addresses.add_interval(interval(1, end=10**9 * SECOND))
    clock.now += (TAIL + 1) * SECOND
    cluster.apply([])
    assert cluster.addresses.size() == 0


def test_repeats_do_not_fill_the_memory_beside_the_intervals() -> None:
    ended = EndedIntervals(max_of_node=5, max_ended=10)
    for number in range(20_000):
        ended.note("n1", ("u", "10.0.0.1"), number, number)
        assert list(ended.excess("n1")) == []
    assert len(ended) == 1
    [of_node] = ended._by_node.values()
    assert len(of_node._heap) < 2_000
