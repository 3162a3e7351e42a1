"""Policies of a CustomResourceDefinition that comes, stops to serve our version, goes and comes back, with a real
kube-apiserver."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from enrich.index.cluster import Cluster
from enrich.model import TIERED_KINDS, Name
from enrich.sources.kubernetes import KubernetesSource
from tests.cluster.apiserver import ApiServer
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "policy.networking.k8s.io"
PLURAL = "clusternetworkpolicies"
DEFINITION = f"{PLURAL}.{GROUP}"
POLICIES = f"/apis/{GROUP}/v1alpha2/{PLURAL}"
GUARD = Name("", "guard")


def make_definition(
    *versions: tuple[str, bool], plural: str = PLURAL, kind: str = "ClusterNetworkPolicy"
) -> dict[str, Any]:
    """Of the group and kind, and nothing else of it: whatever is in an object is kept. The last version is stored."""
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    annotations = {"api-approved.kubernetes.io": "unapproved, for a test"}
    return {
        "metadata": {"name": f"{plural}.{GROUP}", "annotations": annotations},
        "spec": {
            "group": GROUP, "scope": "Cluster",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": name, "served": served, "storage": name == versions[-1][0], "schema": anything}
                         for name, served in versions],
        },
    }  # fmt: skip


def put_policy(api: ApiServer, priority: int) -> None:
    """Create the policy, once its kind is served."""
    spec = {"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}}
    create(api, POLICIES, "ClusterNetworkPolicy", "guard", spec)


def create(api: ApiServer, path: str, kind: str, name: str, spec: dict[str, Any]) -> None:
    """Create a policy, once its kind is served."""
    version = "/".join(path.split("/")[2:4])
    policy = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}

    def created() -> bool:
        with contextlib.suppress(OSError):  # 404: not served yet
            return bool(api.create(path, policy))
        return False

    until(created)


def remove(api: ApiServer, definition: str) -> None:
    """Delete a definition, if it exists, and wait until the server has removed it with its objects: else a later test
    would find them."""
    path = f"{DEFINITIONS}/{definition}"
    with contextlib.suppress(OSError):
        api.delete(path)

    def is_gone() -> bool:
        try:
            api.get(path)
        except OSError as error:
            return str(error).startswith(f"GET {path}: 404 ")
        return False

    until(is_gone, 60)


class Probe:
    """A source of ClusterNetworkPolicies with a folder of its own."""

    def __init__(self, api: ApiServer, state: Path) -> None:
        config, self.state = str(api.kubeconfig("admin")), state
        self.cluster = Cluster(kinds=TIERED_KINDS)
        self.source = KubernetesSource(
            self.cluster, lambda: kubernetes.config.new_client_from_config(config), state=state
        )
        self.source.start()

    def priority(self) -> int | None:
        """The policy's priority, if it is in force."""
        found = self.cluster.cluster_policies().get(GUARD)
        return found.priority if found is not None else None


@pytest.fixture
def probe(api: ApiServer, tmp_path: Path) -> Iterator[Probe]:
    made = Probe(api, tmp_path)
    try:
        assert made.cluster.synced.wait(240), made.source.problem()
        yield made
    finally:
        made.source.stop()
        remove(api, DEFINITION)


def test_a_policy_is_in_force_until_it_is_deleted_whatever_becomes_of_its_definition(
    api: ApiServer, probe: Probe
) -> None:
    source = probe.source
    until(lambda: source.problem() is None)
    api.create(DEFINITIONS, make_definition(("v1alpha2", True)))
    put_policy(api, 1)
    until(lambda: probe.priority() == 1)
    until(lambda: source.problem() is None)

    # An upgrade ends the version that is read here. The server removes a version on its own time.
    api.patch(f"{DEFINITIONS}/{DEFINITION}", make_definition(("v1alpha2", False), ("v9", True)))
    until(lambda: "the cluster has v9" in (source.problem() or ""), 60)
    assert "stays in force (objects: 1)" in (source.problem() or "")
    assert list(source.kept()) == ["ClusterNetworkPolicy guard"]
    assert probe.priority() == 1

    # So does a probe that starts now, and one that never saw the policy says that it cannot read any.
    other = Probe(api, probe.state)
    new = Probe(api, probe.state / "new")
    try:
        assert other.cluster.synced.wait(240)
        assert new.cluster.synced.wait(240)
        assert (other.priority(), new.priority()) == (1, None)
        until(lambda: "stays in force" in (other.source.problem() or ""))
        until(lambda: "the cluster has v9" in (new.source.problem() or ""))
    finally:
        other.source.stop()
        new.source.stop()

    api.patch(f"{DEFINITIONS}/{DEFINITION}", make_definition(("v9", True), ("v1alpha2", True)))
    until(lambda: source.problem() is None and not source.kept(), 60)
    assert probe.priority() == 1
    api.delete(f"{POLICIES}/guard")
    until(lambda: probe.priority() is None)
    assert not source.kept()


def test_a_definition_that_is_deleted_and_made_again(api: ApiServer, probe: Probe) -> None:
    source = probe.source
    api.create(DEFINITIONS, make_definition(("v1alpha2", True)))
    put_policy(api, 1)
    until(lambda: probe.priority() == 1)
    api.delete(f"{DEFINITIONS}/{DEFINITION}")
    until(lambda: "stays in force" in (source.problem() or ""))
    api.create(DEFINITIONS, make_definition(("v1alpha2", True)))
    until(lambda: source.problem() is None)
    until(lambda: "made again" in source.kept().get("ClusterNetworkPolicy guard", ""))
    assert probe.priority() == 1

    # The same policy again, changed, and deleted: now somebody has said so.
    put_policy(api, 2)
    until(lambda: probe.priority() == 2)
    until(lambda: not source.kept())
    api.delete(f"{POLICIES}/guard")
    until(lambda: probe.priority() is None)
    # What is in force does not wait for the disk.
    until(lambda: not any(b"guard" in one.read_bytes() for one in probe.state.rglob("*") if one.is_file()))
    again = Probe(api, probe.state)
    try:
        assert again.cluster.synced.wait(240)
        assert again.priority() is None
    finally:
        again.source.stop()


def test_the_predecessors_are_read_beside_it(api: ApiServer, probe: Probe) -> None:
    kinds = {"adminnetworkpolicies": "AdminNetworkPolicy", "baselineadminnetworkpolicies": "BaselineAdminNetworkPolicy"}
    spec: dict[str, Any] = {"priority": 3, "subject": {"namespaces": {}}}
    try:
        for plural, kind in kinds.items():
            api.create(DEFINITIONS, make_definition(("v1alpha1", True), plural=plural, kind=kind))
            path = f"/apis/{GROUP}/v1alpha1/{plural}"
            create(api, path, kind, "default", spec)
        until(lambda: len(probe.cluster.cluster_policies()) == 2)
        api.create(DEFINITIONS, make_definition(("v1alpha2", True)))
        put_policy(api, 1)
        until(lambda: len(probe.cluster.cluster_policies()) == 3)
        api.delete(f"/apis/{GROUP}/v1alpha1/adminnetworkpolicies/default")
        until(lambda: len(probe.cluster.cluster_policies()) == 2)
        assert not probe.source.kept()
    finally:
        for plural in kinds:
            remove(api, f"{plural}.{GROUP}")


def test_a_node_that_comes_from_another_cluster_does_not_enforce_its_policies(api: ApiServer, tmp_path: Path) -> None:
    """The folder has a policy of this cluster and one of another, and the server does not serve the kind."""
    uid = api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    (tmp_path / DEFINITION).mkdir()
    for name, cluster in (("guard", "another"), ("own", uid)):
        stored = {"definition": "d1", "cluster": cluster, "object": {"metadata": {"name": name}, "spec": spec}}
        (tmp_path / DEFINITION / name).write_text(json.dumps(stored))
    made = Probe(api, tmp_path)
    try:
        assert made.cluster.synced.wait(240), made.source.problem()
        assert {name.name for name in made.cluster.cluster_policies()} == {"own"}
        assert list(made.source.kept()) == ["ClusterNetworkPolicy own"]
        until(lambda: not (tmp_path / DEFINITION / "guard").exists())
    finally:
        made.source.stop()
