"""The index: who had which address when, what runs a pod, and what readers and subscribers see."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.index.cluster import KINDS, Change, Cluster
from enrich.index.gone_workloads import GoneWorkloads
from enrich.label_selector import Selector
from enrich.model import Name, Namespace, NetworkPolicy, Node, Owner, Pod, Service, Workload
from enrich.wire.address_interval import AddressInterval, OwnerRef

S = 1_000_000_000
IP = "10.0.0.1"


class Clock:
    """The wall clock, by hand."""

    def __init__(self) -> None:
        self.now = 10_000 * S

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster(clock: Clock) -> Cluster:
    """Listed, and empty."""
    made = Cluster(tail_s=900, skew_s=1, now_ns=clock)
    made.replace_all({kind: [] for kind in KINDS})
    return made


def make_pod(name: str = "web", *ips: str, uid: str = "", **facts: Any) -> Pod:
    return Pod("shop", name, uid or f"uid-{name}", facts.pop("labels", {}), ips or (IP,), "n1", **facts)


def put(cluster: Cluster, *pods: Pod) -> None:
    cluster.apply(Change("set", pod) for pod in pods)


def drop(cluster: Cluster, *pods: Pod) -> None:
    cluster.apply(Change("delete", pod) for pod in pods)


def who(cluster: Cluster, at: int, ip: str = IP) -> str | None:
    found = cluster.addresses.owner_at(ip, at)
    return "ambiguous" if found.ambiguous else found.pod.name if found.pod else None


def test_nobody_has_an_address_that_no_pod_had(cluster: Cluster, clock: Clock) -> None:
    assert who(cluster, clock.now) is None


def test_a_pod_has_its_address_from_when_it_started_until_it_is_gone(cluster: Cluster, clock: Clock) -> None:
    pod = make_pod(started_ns=clock.now - 5 * S)
    put(cluster, pod)
    clock.now += 10 * S
    drop(cluster, pod)
    begin, end = clock.now - 15 * S, clock.now
    assert [who(cluster, at) for at in (begin - 3 * S, begin + S, end - 2 * S, end + 3 * S)] == [
        None,
        "web",
        "web",
        None,
    ]
    # The API's times are whole seconds, and it says that a pod is gone some time after it is.
    assert [who(cluster, at) for at in (begin - S // 2, begin, end - S // 2, end + S)] == ["ambiguous"] * 4


def test_a_pod_of_the_first_list_has_its_address_since_ever_if_nobody_says_since_when(clock: Clock) -> None:
    cluster = Cluster(now_ns=clock)
    cluster.replace(Pod, [make_pod("old"), make_pod("later", "10.0.0.2", started_ns=clock.now - 60 * S)])
    assert who(cluster, 0) == "old"
    assert who(cluster, clock.now - 120 * S, "10.0.0.2") is None
    assert who(cluster, clock.now, "10.0.0.2") == "later"


def test_a_pod_that_comes_later_has_its_address_since_it_came(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod())
    assert who(cluster, clock.now - 5 * S) is None
    assert who(cluster, clock.now) == "web"


def test_an_address_that_is_used_again_is_named_by_time_and_not_near_the_change(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod("a"))
    clock.now += 100 * S
    drop(cluster, make_pod("a"))
    clock.now += S // 2
    put(cluster, make_pod("b"))
    change = clock.now
    assert who(cluster, change - 10 * S) == "a"
    assert who(cluster, change) == "ambiguous"
    assert who(cluster, change + 10 * S) == "b"


def test_two_pods_that_claim_one_address_are_both_not_named(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod("a"), make_pod("b"))
    assert who(cluster, clock.now) == "ambiguous"
    drop(cluster, make_pod("a"))
    clock.now += 10 * S
    assert who(cluster, clock.now) == "b"


def test_a_stateful_pod_under_the_same_name_is_another(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod("db-0", uid="1", labels={"run": "1"}))
    clock.now += 100 * S
    put(cluster, make_pod("db-0", uid="2", labels={"run": "2"}))
    clock.now += 100 * S
    old, new = cluster.addresses.owner_at(IP, clock.now - 150 * S).pod, cluster.addresses.owner_at(IP, clock.now).pod
    assert (old and old.uid, new and new.uid) == ("1", "2")
    assert cluster.addresses.pod_by_uid("1") is not None


def test_a_pod_that_terminated_holds_no_address(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod())
    clock.now += 10 * S
    put(cluster, make_pod(terminated=True))
    assert who(cluster, clock.now - 5 * S) == "web"
    assert who(cluster, clock.now + 5 * S) is None
    put(cluster, make_pod("next"))
    assert who(cluster, clock.now + 5 * S) == "next"


def test_a_host_network_pod_is_its_node(cluster: Cluster, clock: Clock) -> None:
    cluster.apply([Change("set", Node("n1", "n", {}, ("192.0.2.1",)))])
    put(cluster, make_pod("agent", "192.0.2.1", host_network=True))
    assert who(cluster, clock.now, "192.0.2.1") is None
    node = cluster.node_of_ip("192.0.2.1")
    assert node is not None
    assert node.name == "n1"


def test_new_labels_do_not_move_an_interval(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod())
    clock.now += 10 * S
    put(cluster, make_pod(labels={"app": "web"}))
    found = cluster.addresses.owner_at(IP, clock.now - 9 * S).pod
    assert found is not None
    assert found.labels == {"app": "web"}


def test_both_families_and_an_address_that_is_given_up(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod("web", IP, "fd00::1"))
    assert who(cluster, clock.now, "fd00::1") == "web"
    clock.now += 10 * S
    put(cluster, make_pod("web", IP))
    assert who(cluster, clock.now + 5 * S, "fd00::1") is None
    assert who(cluster, clock.now + 5 * S) == "web"


def test_what_is_gone_is_remembered_for_the_tail_and_then_forgotten(cluster: Cluster, clock: Clock) -> None:
    empty = cluster.addresses.size()
    for number in range(100):
        put(cluster, make_pod(f"p{number}", f"10.1.0.{number}", started_ns=clock.now - 60 * S))
        drop(cluster, make_pod(f"p{number}", f"10.1.0.{number}"))
    clock.now += 890 * S
    put(cluster, make_pod("stays", "10.2.0.1"))
    assert who(cluster, clock.now - 900 * S, "10.1.0.7") == "p7"
    assert cluster.addresses.pod_by_uid("uid-p7") is not None
    clock.now += 20 * S
    put(cluster, make_pod("stays", "10.2.0.1", labels={"a": "b"}))
    assert cluster.addresses.pod_by_uid("uid-p7") is None
    assert cluster.addresses.size() == empty + 2


def test_an_address_that_is_used_at_once_again_survives_the_tail_of_its_last_owner(
    cluster: Cluster, clock: Clock
) -> None:
    put(cluster, make_pod("a", uid="x"))
    drop(cluster, make_pod("a", uid="x"))
    put(cluster, make_pod("b", uid="x"))  # a manifest's UID comes again
    clock.now += 1000 * S
    put(cluster, make_pod("other", "10.9.9.9"))
    assert who(cluster, clock.now) == "b"
    assert cluster.addresses.pod_by_uid("x") is not None


# --- what happened while nobody looked, and what probes say


def test_a_pod_that_went_while_the_watch_was_cut_had_its_address_nobody_knows_until_when(
    cluster: Cluster, clock: Clock
) -> None:
    put(cluster, make_pod("a"))
    clock.now += 100 * S
    known = clock.now
    clock.now += 60 * S
    cluster.replace(Pod, [make_pod("b", started_ns=known + 30 * S, acknowledged_ns=known + 28 * S)], known)
    assert who(cluster, known - 2 * S) == "a"
    assert [who(cluster, known + seconds * S) for seconds in (0, 5, 29, 35, 59)] == ["ambiguous"] * 5
    assert who(cluster, clock.now + 2 * S) == "b"


def test_an_event_that_comes_late_happened_since_the_watch_had_told_everything(cluster: Cluster, clock: Clock) -> None:
    put(cluster, make_pod("a"))
    clock.now += 100 * S
    cluster.apply([Change("delete", make_pod("a"))], clock.now - 60 * S)
    assert [who(cluster, clock.now - ago * S) for ago in (62, 50, 1)] == ["a", "ambiguous", "ambiguous"]


def make_hold(pod: str, start: int, end: int | None = None, **facts: Any) -> AddressInterval:
    given: dict[str, Any] = {"cluster": "c", "node": "n1", "ip": IP, "uid": f"uid-{pod}", "namespace": "shop"}
    return AddressInterval(**{**given, "pod": pod, "first": start, "start": start, "end": end, "last": end, **facts})


def test_what_probes_say_is_exact_on_their_own_clock_and_within_the_skew_on_others(
    cluster: Cluster, clock: Clock
) -> None:
    start = clock.now
    cluster.addresses.add_interval(make_hold("a", start, start + 100))
    cluster.addresses.add_interval(make_hold("b", start + 200))
    asked = (start - 1, start, start + 99, start + 150, start + 200, start + 10 * S)

    def named(node: str) -> list[str | None]:
        found = [cluster.addresses.owner_at(IP, at, node) for at in asked]
        return ["ambiguous" if one.ambiguous else one.pod.name if one.pod else None for one in found]

    assert named("n1") == [None, "a", "a", None, "b", "b"]
    assert named("n2") == ["ambiguous"] * 5 + ["b"]


def test_the_probes_word_counts_for_more_than_the_watch(cluster: Cluster, clock: Clock) -> None:
    start = clock.now
    put(cluster, make_pod("a", labels={"from": "watch"}))
    cluster.addresses.add_interval(make_hold("a", start - 5 * S))
    found = cluster.addresses.owner_at(IP, start - 3 * S)
    assert found.pod is not None
    assert found.pod.labels == {"from": "watch"}
    clock.now += 20 * S
    cluster.addresses.add_interval(make_hold("a", start - 5 * S, start + 10 * S))
    assert [who(cluster, start + seconds * S) for seconds in (9, 10, 12)] == ["a", "ambiguous", None]


def test_a_pod_that_was_gone_before_the_worker_came_is_named_by_what_its_probe_said(
    cluster: Cluster, clock: Clock
) -> None:
    owner = OwnerRef("ReplicaSet", "web-5d4f")
    labels = {"pod-template-hash": "5d4f"}
    cluster.addresses.add_interval(
        make_hold("gone", clock.now - 60 * S, clock.now - 50 * S, labels=labels, owner=owner)
    )
    found = cluster.addresses.owner_at(IP, clock.now - 55 * S).pod
    assert found is not None
    assert (found.name, found.node) == ("gone", "n1")
    assert cluster.workload_of(found) == Owner("Deployment", "web")
    cluster.addresses.remove_interval("uid-gone", IP)
    assert who(cluster, clock.now - 55 * S) is None
    assert cluster.addresses.pod_by_uid("uid-gone") is None


def test_what_a_dead_nodes_probe_left_open_is_closed_by_the_watch(cluster: Cluster, clock: Clock) -> None:
    start = clock.now
    put(cluster, make_pod("known"))
    cluster.addresses.add_interval(make_hold("known", start))
    cluster.addresses.add_interval(make_hold("unknown", start, ip="10.0.0.9"))
    assert who(cluster, start + 2 * S, "10.0.0.9") == "unknown", "the watch may be about to tell of it"
    clock.now += 100 * S
    drop(cluster, make_pod("known"))
    assert [who(cluster, at) for at in (start + 50 * S, clock.now, clock.now + 2 * S)] == ["known", "ambiguous", None]
    assert who(cluster, start + 2 * S, "10.0.0.9") == "ambiguous"
    clock.now += 2000 * S
    put(cluster, make_pod("later", "10.9.9.9"))
    assert cluster.addresses.size() == 2


def test_an_address_among_pods_is_likely_a_pods(cluster: Cluster) -> None:
    put(cluster, make_pod("web", IP, "fd00::1"))
    asked = ("10.0.0.200", "10.0.1.1", "fd00::ffff", "fd00:0:0:1::1", "")
    assert [cluster.addresses.ranges.near_pods(ip) for ip in asked] == [True, False, True, False, False]


Step = tuple[str, int, int, int]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "delete"]), st.integers(0, 3), st.integers(0, 2), st.integers(0, 4 * S)),
        max_size=25,
    ),
    st.integers(-10 * S, 100 * S),
)
def test_the_answer_holds_for_as_long_as_it_says(steps: list[Step], offset: int) -> None:
    clock = Clock()
    cluster = Cluster(tail_s=5, now_ns=clock)
    cluster.replace_all({kind: [] for kind in KINDS})
    for op, name, host, wait in steps:
        clock.now += wait
        pod = make_pod(f"p{name}", f"10.0.0.{host}")
        cluster.apply([Change("set" if op == "set" else "delete", pod)])
    at = 10_000 * S + offset
    for ip in ("10.0.0.0", "10.0.0.1", "10.0.0.2"):
        found, since, until = cluster.addresses.owner_around(ip, at)
        assert since <= at < until
        for moment in {max(since, 0), (max(since, 0) + at) // 2, at, min(until, 1 << 60) - 1}:
            assert cluster.addresses.owner_at(ip, moment) == found


# --- owners


def test_a_replica_set_of_a_deployment_is_the_deployment(cluster: Cluster) -> None:
    pod = make_pod(owner=Owner("ReplicaSet", "web-5d4f"), labels={"pod-template-hash": "5d4f"})
    assert cluster.workload_of(pod) == Owner("Deployment", "web")  # by its name, before the ReplicaSet is known
    cluster.apply(
        [Change("set", Workload("ReplicaSet", "shop", "web-5d4f", "r", Owner("Deployment", "shop-web", "d")))]
    )
    assert cluster.workload_of(pod) == Owner("Deployment", "shop-web", "d")


def test_a_replica_set_of_its_own_is_itself(cluster: Cluster) -> None:
    known = make_pod(owner=Owner("ReplicaSet", "web-5d4f"), labels={"pod-template-hash": "5d4f"})
    cluster.apply([Change("set", Workload("ReplicaSet", "shop", "web-5d4f", "r"))])
    assert cluster.workload_of(known) == Owner("ReplicaSet", "web-5d4f")
    for labels in ({}, {"pod-template-hash": "other"}, {"pod-template-hash": ""}):
        unknown = make_pod(owner=Owner("ReplicaSet", "api-1"), labels=labels)
        assert cluster.workload_of(unknown) == Owner("ReplicaSet", "api-1")


def test_a_job_of_a_cron_job_and_kinds_that_nobody_knows(cluster: Cluster) -> None:
    cluster.apply([Change("set", Workload("Job", "shop", "tidy-1", "j", Owner("CronJob", "tidy", "c")))])
    assert cluster.workload_of(make_pod(owner=Owner("Job", "tidy-1"))) == Owner("CronJob", "tidy", "c")
    assert cluster.workload_of(make_pod(owner=Owner("Job", "once"))) == Owner("Job", "once")
    assert cluster.workload_of(make_pod(owner=Owner("Rollout", "web"))) == Owner("Rollout", "web")
    assert cluster.workload_of(make_pod()) is None


def test_a_job_that_is_gone_still_leads_to_its_cron_job(cluster: Cluster) -> None:
    job = Workload("Job", "shop", "tidy-1", "j1", Owner("CronJob", "tidy", "c"))
    pod = make_pod(owner=Owner("Job", "tidy-1", "j1"))
    cluster.apply([Change("set", job)])
    cluster.apply([Change("delete", job)])
    assert cluster.workload_of(pod) == Owner("CronJob", "tidy", "c")
    # Another one of its name, which somebody made by hand.
    cluster.apply([Change("set", Workload("Job", "shop", "tidy-1", "j2"))])
    assert cluster.workload_of(pod) == Owner("CronJob", "tidy", "c")
    assert cluster.workload_of(make_pod(owner=Owner("Job", "tidy-1", "j2"))) == Owner("Job", "tidy-1", "j2")
    cluster.replace(Workload, [Workload("Job", "shop", "tidy-1", "j3", Owner("CronJob", "other", "o"))])
    assert cluster.workload_of(pod) == Owner("CronJob", "tidy", "c")
    assert cluster.workload_of(make_pod(owner=Owner("Job", "tidy-1", "j3"))) == Owner("CronJob", "other", "o")


def test_so_many_workloads_that_are_gone_are_remembered() -> None:
    gone = GoneWorkloads(limit=3)
    for number in range(5):
        gone.note(Workload("Job", "shop", f"tidy-{number}", f"j{number}", Owner("CronJob", "tidy", "c")), None)
    gone.note(Workload("Job", "shop", "once", "j9"), None)
    assert [gone.find(f"j{number}") is not None for number in range(5)] == [False, False, True, True, True]
    assert gone.find("j9") is None


# --- readers and subscribers


def test_nothing_is_synced_before_every_kind_was_listed() -> None:
    cluster = Cluster()
    told: list[bool] = []
    cluster.subscribe(lambda _: told.append(cluster.synced.is_set()))
    for kind in KINDS[:-1]:
        cluster.replace(kind, [])
    assert cluster.missing() == [KINDS[-1].__name__]
    assert not cluster.synced.is_set()
    cluster.replace(KINDS[-1], [])
    assert cluster.missing() == []
    assert told == [False] * (len(KINDS) - 1) + [True], "who waits to be told hears of the last list, empty or not"


def test_a_list_is_diffed(cluster: Cluster) -> None:
    told: list[frozenset[type]] = []
    cluster.replace(Pod, [make_pod("a", "10.0.0.1"), make_pod("b", "10.0.0.2")])
    cluster.subscribe(told.append)
    assert not cluster.replace_all({Pod: [make_pod("a", "10.0.0.1"), make_pod("b", "10.0.0.2")]})
    assert told == []
    cluster.replace(Pod, [make_pod("b", "10.0.0.2"), make_pod("c", "10.0.0.3")])
    assert told == [frozenset({Pod})]
    assert {name.name for name in cluster.pods()} == {"b", "c"}


def test_some_changes_are_told_once_and_what_changes_nothing_never(cluster: Cluster) -> None:
    told: list[frozenset[type]] = []
    cluster.subscribe(told.append)
    namespace = Namespace("shop", "s", {})
    cluster.apply([Change("set", make_pod()), Change("set", namespace)])
    generation = cluster.generation
    cluster.apply([Change("set", make_pod()), Change("delete", make_pod("nobody", "10.0.0.9"))])
    assert told == [frozenset({Pod, Namespace})]
    assert cluster.generation == generation


def test_a_snapshot_holds_still(cluster: Cluster) -> None:
    put(cluster, make_pod("a"))
    pods, snapshot = cluster.pods(), cluster.snapshot()
    policy = NetworkPolicy("shop", "p", "u", Selector())
    cluster.apply([Change("delete", make_pod("a")), Change("set", policy)])
    assert set(pods) == set(snapshot.pods) == {Name("shop", "a")}
    assert not snapshot.policies
    assert not cluster.pods()
    assert cluster.policies()[Name("shop", "p")] is policy
    with pytest.raises(TypeError):
        cluster.pods()[Name("x", "y")] = make_pod()  # type: ignore[index]  # it must not be possible


def test_services_and_nodes_by_their_addresses(cluster: Cluster) -> None:
    cluster.apply([Change("set", Service("shop", "web", "s", ("10.96.0.1", "fd96::1")))])
    assert cluster.service_of("fd96::1") == cluster.services()[Name("shop", "web")]
    cluster.apply([Change("delete", Service("shop", "web", "s"))])
    assert cluster.service_of("10.96.0.1") is None
    cluster.apply([Change("set", Node("n1", "n", {}, ("192.0.2.1",), "z"))])
    assert cluster.node("n1") == cluster.node_of_ip("192.0.2.1")
    cluster.apply([Change("set", Node("n1", "n", {}, ("192.0.2.2",), "z"))])
    assert cluster.node_of_ip("192.0.2.1") is None


def test_readers_see_all_of_a_change_or_nothing(cluster: Cluster) -> None:
    done = threading.Event()
    wrong: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen = cluster.snapshot()
            if len({len(seen.pods), len(seen.namespaces), len(seen.policies)}) != 1:
                wrong.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        pods = [make_pod(f"p{i}", f"10.0.0.{i}") for i in range(number % 5)]
        names = [Namespace(f"n{i}", str(i), {}) for i in range(number % 5)]
        policies = [NetworkPolicy("shop", f"p{i}", str(i), Selector()) for i in range(number % 5)]
        cluster.replace_all({Pod: pods, Namespace: names, NetworkPolicy: policies})
    done.set()
    reader.join()
    assert not wrong


def test_when_a_pods_address_was_told_is_known_where_a_kubelet_told_it(cluster: Cluster, clock: Clock) -> None:
    told = clock.now
    put(cluster, make_pod("web", started_ns=told - 2 * S, acknowledged_ns=told - 3 * S), make_pod("file", "10.0.0.2"))
    clock.now += 60 * S
    put(cluster, make_pod("web", started_ns=told - 2 * S, acknowledged_ns=told - 3 * S, labels={"app": "web"}))
    assert cluster.addresses.published_ns("uid-web", IP) == told
    assert cluster.addresses.published_ns("uid-file", "10.0.0.2") == 0, "a manifest says it before it is so"
    assert cluster.addresses.published_ns("uid-other", IP) == 0
    put(cluster, make_pod("web", started_ns=told + 5 * S, acknowledged_ns=told - 3 * S))
    assert cluster.addresses.published_ns("uid-web", IP) == 0, "its sandbox was made anew"


def test_when_the_address_of_a_pod_was_told_that_was_there_before_is_not_known(clock: Clock) -> None:
    cluster = Cluster(tail_s=900, skew_s=1, now_ns=clock)
    cluster.replace_all({kind: [] for kind in KINDS} | {Pod: [make_pod(started_ns=5 * S, acknowledged_ns=5 * S)]})
    assert cluster.addresses.published_ns("uid-web", IP) == 0
