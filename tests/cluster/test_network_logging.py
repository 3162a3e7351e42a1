"""The kind NetworkLogging with a real kube-apiserver: our definition of it, and what the probe's source makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml

from enrich.index.cluster import Cluster
from enrich.model import Name, Namespace, NetworkPolicy
from enrich.network_logging import NetworkLogging
from enrich.parse.metadata import DENY_LOGGING, LOGGING
from enrich.parse.objects import InvalidObjectError, parse
from enrich.sources.kubernetes import KubernetesSource
from tests.cluster.apiserver import ApiServer
from tests.cluster.test_definitions import DEFINITIONS, remove
from tests.cluster.test_kubernetes_source import eventually
from tests.enrich.parse.test_network_logging import INVALID, VALID, network_logging

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "deploy/kubernetes/components/network-logging"
DEFINITION = "networkloggings.networking.gke.io"
OBJECTS = "/apis/networking.gke.io/v1alpha1/networkloggings"
ONLY = Name("", "default")
EVERYTHING = {"cluster": {"allow": {"log": True}, "deny": {"log": True}}}


def definition(*, validates: bool = True) -> dict[str, Any]:
    """Our definition of the kind; if it is not to validate, one that keeps all fields of an object."""
    made: dict[str, Any] = yaml.safe_load((COMPONENT / "definition.yaml").read_text())
    if not validates:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        made["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = anything
    return made


def install(api: ApiServer, made: dict[str, Any]) -> None:
    api.create(DEFINITIONS, made)

    def is_served() -> bool:
        try:
            api.get(OBJECTS)
        except OSError:
            return False
        return True

    eventually(is_served)


@pytest.fixture
def source(api: ApiServer) -> Iterator[KubernetesSource]:
    """A source of what logging depends on."""
    config = str(api.kubeconfig("admin"))
    cluster = Cluster(kinds=(Namespace, NetworkPolicy, NetworkLogging))
    made = KubernetesSource(cluster, lambda: kubernetes.config.new_client_from_config(config))
    made.index = cluster  # type: ignore[attr-defined]  # for the tests here
    made.start()
    try:
        assert cluster.synced.wait(30), made.problem()
        yield made
    finally:
        made.stop()
        remove(api, DEFINITION)


def found(source: KubernetesSource) -> NetworkLogging | None:
    cluster: Cluster = source.index  # type: ignore[attr-defined]  # as above
    return (cluster.network_loggings() or {}).get(ONLY)


def test_our_definition_takes_and_refuses_what_we_do(api: ApiServer, source: KubernetesSource) -> None:
    del source
    install(api, definition())
    differ = []
    for spec in [*(spec for spec, _ in VALID), *(spec for spec, _ in INVALID)]:
        document = network_logging(spec)
        theirs, ours = "taken", "taken"
        try:
            api.create(f"{OBJECTS}?dryRun=All", document)
        except OSError as error:
            theirs = str(error)
        try:
            parse(document)
        except InvalidObjectError as error:
            ours = str(error)
        if (theirs == "taken") != (ours == "taken"):
            differ.append((spec, theirs, ours))
    assert differ == []
    with pytest.raises(OSError, match="the only NetworkLogging of a cluster is named default"):
        api.create(f"{OBJECTS}?dryRun=All", network_logging({}, name="other"))
    with pytest.raises(OSError, match=r"delegate needs log: true"):
        api.create(f"{OBJECTS}?dryRun=All", network_logging({"cluster": {"deny": {"delegate": True}}}))
    # What people see before they have written anything.
    described = api.get("/openapi/v3/apis/networking.gke.io/v1alpha1", raw=True)
    schemas = json.loads(described)["components"]["schemas"]["io.gke.networking.v1alpha1.NetworkLogging"]
    cluster = schemas["properties"]["spec"]["properties"]["cluster"]["properties"]
    assert "enable-logging" in cluster["allow"]["properties"]["delegate"]["description"]
    assert "enable-deny-logging" in cluster["deny"]["properties"]["delegate"]["description"]
    discovered = api.get("/apis/networking.gke.io/v1alpha1")["resources"][0]
    assert (discovered["shortNames"], discovered["namespaced"]) == (["nl"], False)


def test_a_cluster_without_the_kind_is_nothing_to_report(
    api: ApiServer, source: KubernetesSource, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster: Cluster = source.index  # type: ignore[attr-defined]  # as above
    eventually(lambda: cluster.network_loggings() is not None and source.problem() is None)
    install(api, definition())
    api.create(OBJECTS, network_logging(EVERYTHING))
    eventually(lambda: found(source) is not None)
    api.patch(f"{OBJECTS}/default", {"spec": {"cluster": {"allow": {"delegate": True}}}})
    eventually(lambda: (made := found(source)) is not None and made.spec is not None and made.spec.allow.delegate)
    # Without the kind there is no object: the settings say what is logged again.
    api.delete(f"{DEFINITIONS}/{DEFINITION}")
    eventually(lambda: found(source) is None)
    eventually(lambda: source.problem() is None, 60)
    assert source.kept() == {}
    assert "error" not in capsys.readouterr().out


def test_an_object_that_was_not_validated_is_known_as_invalid(api: ApiServer, source: KubernetesSource) -> None:
    install(api, definition(validates=False))
    api.create(OBJECTS, network_logging(EVERYTHING))
    eventually(lambda: found(source) is not None)
    api.patch(f"{OBJECTS}/default", {"spec": {"cluster": {"deny": {"log": False, "delegate": True}}}})
    eventually(lambda: (made := found(source)) is not None and bool(made.invalid))
    assert source.refused() == ["NetworkLogging default"]
    api.create(OBJECTS, network_logging(EVERYTHING, name="other"))
    eventually(lambda: source.refused() == ["NetworkLogging default", "NetworkLogging other"])
    api.delete(f"{OBJECTS}/other")
    api.patch(f"{OBJECTS}/default", {"spec": {"cluster": {"deny": {"delegate": False}}}})
    eventually(lambda: (made := found(source)) is not None and not made.invalid)
    eventually(lambda: source.refused() == [])


def test_annotations_are_watched(api: ApiServer, source: KubernetesSource) -> None:
    cluster: Cluster = source.index  # type: ignore[attr-defined]  # as above
    api.create("/api/v1/namespaces", {"metadata": {"name": "annotated"}})
    path = "/apis/networking.k8s.io/v1/namespaces/annotated/networkpolicies"
    api.create(path, {"metadata": {"name": "web"}, "spec": {"podSelector": {}}})
    eventually(lambda: Name("annotated", "web") in cluster.policies())
    api.patch(f"{path}/web", {"metadata": {"annotations": {LOGGING: "true"}}})
    eventually(lambda: cluster.policies()[Name("annotated", "web")].logging == "true")
    api.patch("/api/v1/namespaces/annotated", {"metadata": {"annotations": {DENY_LOGGING: "yes"}}})
    eventually(lambda: cluster.namespaces()[Name("", "annotated")].deny_logging == "yes")
