"""The limits of open address intervals of pods that the watch does not know."""

from __future__ import annotations

import pytest

from enrich.index.cluster import Change, Cluster
from enrich.index.intervals import SECOND
from enrich.model import Pod
from tests.enrich.index.test_ended_intervals import NOW, TAIL, Clock, interval, known

MINUTE = 60 * SECOND


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster(clock: Clock) -> Cluster:
    """An index with room for three such intervals of a node, and eight in all. Its API server is away."""
    made = Cluster(TAIL, 1.0, clock)
    made.addresses.unconfirmed.max_of_node, made.addresses.unconfirmed.max_ended = 3, 8
    made.addresses.set_complete_since(NOW - 800 * SECOND)
    made.addresses.watched_until_ns = lambda: NOW
    return made


def test_what_is_too_much_of_a_node_is_given_up_those_published_first(cluster: Cluster, clock: Clock) -> None:
    given = [interval(number, end=None) for number in (5, 2, 9, 7)]
    for one in given:
        clock.now += 1
        cluster.addresses.add_interval(one)
    assert known(cluster, *given) == [False, True, True, True]
    assert cluster.addresses.unconfirmed.dropped == {"node": 1, "index": 0}
    assert cluster.addresses.owner_at(given[0].ip, NOW - SECOND, "n1").ambiguous


def test_a_flood_of_one_node_costs_no_other_node_a_name(cluster: Cluster) -> None:
    first = interval(99, node="n2", end=None)
    cluster.addresses.add_interval(first)
    for number in range(50):
        cluster.addresses.add_interval(interval(number, end=None))
    assert known(cluster, first) == [True]
    assert len(cluster.addresses.unconfirmed) == 4


def test_a_flood_in_the_name_of_many_nodes_costs_those_most_that_have_most(cluster: Cluster) -> None:
    for number in range(20):
        cluster.addresses.add_interval(interval(number, node=f"node-{number:02}", end=None))
    assert len(cluster.addresses.unconfirmed) <= 8
    assert cluster.addresses.unconfirmed.dropped["index"] == 12


def test_a_pod_that_the_watch_knows_counts_for_no_limit(cluster: Cluster) -> None:
    given = [interval(number, end=None) for number in range(10)]
    pods = [Pod("shop", f"p{number}", f"n1-{number}", {}, (one.ip,), "n1") for number, one in enumerate(given)]
    cluster.apply([Change("set", pod) for pod in pods])
    for one in given:
        cluster.addresses.add_interval(one)
    assert known(cluster, *given) == [True] * 10
    assert len(cluster.addresses.unconfirmed) == 0


def test_addresses_without_an_owner_are_unsure_until_the_watch_knows_all_pods_of_that_moment(
    cluster: Cluster, clock: Clock
) -> None:
    addresses = cluster.addresses
    before = addresses.complete_since_ns()
    for number in range(4):
        addresses.add_interval(interval(number, end=None))
    assert addresses.complete_since_ns() == NOW > before
    clock.now = NOW + 300 * SECOND
    addresses.evict(clock.now)
    assert addresses.complete_since_ns() == clock.now, "the API server is still away"
    addresses.watched_until_ns = lambda: clock.now
    addresses.evict(clock.now)
    settled = clock.now
    clock.now += MINUTE
    addresses.evict(clock.now)
    assert addresses.complete_since_ns() == settled
    # Those that were believed until now are over, too.
    assert len(addresses.unconfirmed) == 0
