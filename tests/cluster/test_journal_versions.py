"""What the journal keeps of versions, with a real kube-apiserver: resource version, generation, and who changed it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import kubernetes
import pytest

from enrich.history.left_out import LEFT_OUT
from enrich.index.cluster import Cluster
from enrich.model import Pod, Workload
from enrich.sources.kubernetes import KubernetesSource
from enrich.wire.journal import GAP, JournalEntry
from streams.journal.observed import OBJECT_KINDS, ObservedStates
from streams.journal.profiles import Profiles
from streams.journal.writer import JournalWriter, Observation
from tests.cluster.apiserver import ApiServer
from tests.cluster.test_kubernetes_source import PODS, POLICIES, make_pod, make_policy
from tests.streams.journal.test_writer import Log
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


class Journal:
    """A writer with a source that watches the server, and a log in memory."""

    def __init__(self, api: ApiServer, log: Log) -> None:
        self.log = log
        cluster = Cluster(kinds=(*OBJECT_KINDS, Pod, Workload))
        profiles = Profiles(cluster, LEFT_OUT, lambda: None)
        states = ObservedStates(profiles, lambda: None)
        config = str(api.kubeconfig("admin"))
        self._source = KubernetesSource(
            cluster, lambda: kubernetes.config.new_client_from_config(config), observer=states
        )
        self._source.start()
        assert cluster.synced.wait(240), self._source.problem()
        observation = Observation(states, profiles, cluster.synced.is_set, self._source.synced_until_ns)
        self._writer = JournalWriter("t", observation, log.journal, lambda _record, _why: None)
        self._writer.on_assigned([("t", 0)])
        self._writer.step(log)

    def entries(self, kind: str, name: str) -> list[JournalEntry]:
        """Return the entries of an object so far."""
        self._writer.step(self.log)
        return [one for one in self.log.entries if (one.kind, one.name) == (kind, name)]

    def until(self, kind: str, name: str, count: int) -> list[JournalEntry]:
        """Return the entries of an object once there are so many."""
        until(lambda: len(self.entries(kind, name)) >= count)
        return self.entries(kind, name)

    def close(self) -> None:
        """Stop the watch."""
        self._source.stop()


def next_second() -> None:
    """Wait until the API server notes another time."""
    now = int(time.time())
    until(lambda: int(time.time()) > now)


@pytest.fixture
def journal(api: ApiServer) -> Iterator[Journal]:
    """A journal that has begun."""
    made = Journal(api, Log())
    yield made
    made.close()


def test_each_version_of_a_policy_has_its_number_and_who_made_it(api: ApiServer, journal: Journal) -> None:
    policy = f"{POLICIES}/db"
    first = api.create(f"{POLICIES}?fieldManager=kubectl-client-side-apply", make_policy("db", 1))
    next_second()
    second = api.patch(f"{policy}?fieldManager=argocd", {"spec": make_policy("db", 2)["spec"]})
    next_second()
    api.patch(f"{policy}?fieldManager=somebody", {"metadata": {"annotations": {"note": "not about policy"}}})
    next_second()
    third = api.patch(f"{policy}?fieldManager=argocd", {"spec": make_policy("db", 3)["spec"]})
    api.delete(policy)
    found = journal.until("NetworkPolicy", "db", 4)
    assert [one.resource_version for one in found[:3]] == [
        made["metadata"]["resourceVersion"] for made in (first, second, third)
    ]
    assert [one.generation for one in found] == [1, 2, 3, 0]
    assert [one.changed_by for one in found] == ["kubectl-client-side-apply", "argocd", "argocd", ""]
    assert {one.uid for one in found} == {first["metadata"]["uid"]}
    assert found[3].gone
    assert int(found[3].resource_version) > int(found[2].resource_version)


def test_a_write_of_the_status_is_nobodys_change(api: ApiServer, journal: Journal) -> None:
    node = {"metadata": {"name": "n7", "labels": {"zone": "a"}}}
    api.create("/api/v1/nodes?fieldManager=cloud", node)
    status = {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}
    api.patch("/api/v1/nodes/n7/status?fieldManager=kubelet", status)
    found = journal.until("Node", "n7", 2)
    assert [one.changed_by for one in found] == ["cloud", "cloud"]
    capacity = {"status": {"capacity": {"cpu": "2"}}}
    api.patch("/api/v1/nodes/n7/status?fieldManager=kubelet", capacity)
    api.delete("/api/v1/nodes/n7")
    found = journal.until("Node", "n7", 3)
    assert [one.gone for one in found] == [False, False, True], "a change of the capacity is not a version"


def test_a_writer_that_lists_anew_writes_no_version_twice(api: ApiServer, journal: Journal) -> None:
    api.create(f"{POLICIES}?fieldManager=kubectl", make_policy("kept", 1))
    api.create(PODS, make_pod("web", app="web"))
    journal.until("NetworkPolicy", "kept", 1)
    until(lambda: any(one.kind == "Profile" for one in journal.log.entries) or journal.entries("x", "x"))
    before = len(journal.log.entries)
    other = Journal(api, journal.log)
    try:
        assert [one.kind for one in journal.log.entries[before:]] == [GAP]
        api.patch(f"{POLICIES}/kept?fieldManager=kubectl", {"spec": make_policy("kept", 2)["spec"]})
        assert [one.generation for one in other.until("NetworkPolicy", "kept", 2)] == [1, 2]
    finally:
        other.close()
