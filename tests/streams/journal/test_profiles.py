"""Profiles of pods: the workload's name, pods whose owner comes late, and labels that are left out."""

from __future__ import annotations

import orjson

from enrich.history.left_out import LEFT_OUT
from enrich.index.cluster import Change, Cluster
from enrich.model import Owner, Pod, Workload
from streams.journal.observed import Observed
from streams.journal.profiles import LINGER_NS, Profiles

S = 1_000_000_000
JOB = Owner("Job", "nightly-1", "j1")


def made(cluster: Cluster | None = None) -> Profiles:
    """Return the profiles of no pod."""
    return Profiles(cluster or Cluster(), LEFT_OUT, lambda: None)


def pod(name: str, owner: Owner | None = None, **labels: str) -> Pod:
    """Return a pod."""
    return Pod("shop", name, f"u-{name}", labels, owner=owner)


def workloads(found: list[Observed]) -> list[str]:
    """Return the workload of each profile; a minus sign where one is gone."""
    return [orjson.loads(one.state)["workload_name"] if one.state else "-" for one in found]


def test_a_pod_waits_for_its_owner_and_has_the_name_of_what_owns_that() -> None:
    cluster = Cluster()
    profiles = made(cluster)
    profiles.set(pod("a", JOB))
    assert profiles.settle(10 * S) == []
    assert profiles.settle(11 * S) == []
    cluster.apply([Change("set", Workload("Job", "shop", "nightly-1", "j1", Owner("CronJob", "nightly")))])
    assert workloads(profiles.settle(11 * S + 1)) == ["nightly"]


def test_a_pod_whose_owner_never_comes_is_not_waited_for_for_long() -> None:
    cluster = Cluster()
    profiles = made(cluster)
    profiles.set(pod("a", JOB))
    assert profiles.settle(10 * S) == []
    assert workloads(profiles.settle(12 * S)) == ["nightly-1"]
    cluster.apply([Change("set", Workload("Job", "shop", "nightly-1", "j1", Owner("CronJob", "nightly")))])
    assert workloads(profiles.settle(13 * S)) == ["nightly"]
    assert workloads(profiles.settle(13 * S + LINGER_NS)) == ["-"]


def test_at_a_beginning_no_pod_waits() -> None:
    profiles = made()
    profiles.listed([pod("a", JOB)])
    assert workloads(profiles.settle(10 * S, patient=False)) == ["nightly-1"]


def test_labels_that_differ_by_rollout_make_no_other_profile() -> None:
    profiles = made()
    rollouts = [{"app": "web", "pod-template-hash": name} for name in "ab"]
    profiles.listed([Pod("shop", one["pod-template-hash"], "", one) for one in rollouts])
    assert len(profiles.settle(S)) == 1


def test_a_change_of_labels_is_another_profile_and_a_change_of_status_none() -> None:
    profiles = made()
    profiles.set(pod("a", app="web"))
    profiles.settle(S)
    profiles.set(Pod("shop", "a", "u-a", {"app": "web"}, ("10.0.0.1",), "n1"))
    assert profiles.settle(2 * S) == []
    profiles.set(pod("a", app="api"))
    assert len(profiles.settle(3 * S)) == 1
    assert len(profiles.settle(3 * S + LINGER_NS)) == 1


def test_a_list_without_a_pod_ends_its_profile() -> None:
    profiles = made()
    profiles.listed([pod("a", app="web"), pod("b", app="api")])
    profiles.settle(S)
    profiles.listed([pod("b", app="api")])
    profiles.settle(2 * S)
    assert workloads(profiles.settle(2 * S + LINGER_NS)) == ["-"]


def test_a_pod_that_comes_back_while_its_profile_lingers_makes_no_entry() -> None:
    profiles = made()
    profiles.set(pod("a", app="web"))
    profiles.settle(S)
    profiles.deleted(pod("a"))
    profiles.settle(2 * S)
    profiles.set(pod("c", app="web"))
    assert profiles.settle(3 * S) == []
    assert profiles.settle(3 * S + 2 * LINGER_NS) == []


def test_a_profile_that_fits_no_entry_is_counted() -> None:
    refused: list[int] = []
    profiles = Profiles(Cluster(), (), lambda: refused.append(1))
    profiles.set(Pod("shop", "a", "u", {"not a key!": "x"}))
    (found,) = profiles.settle(S)
    assert (found.key.namespace, found.state, found.exists) == ("shop", b"", True)
    assert found.refused
    assert refused == [1]
