"""What is read of a NetworkLogging and of the annotations that it delegates to, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.model import ClusterNetworkPolicy, Namespace, NetworkPolicy
from enrich.network_logging import LogClass, LoggingSpec, NetworkLogging
from enrich.parse.manifest import read_manifest
from enrich.parse.metadata import DENY_LOGGING, LOGGING
from enrich.parse.objects import InvalidObjectError, parse
from enrich.sources.resources import RESOURCES

VERSION = "networking.gke.io/v1alpha1"
[LOGGING_RESOURCE] = [resource for resource in RESOURCES if resource.type is NetworkLogging]


def network_logging(spec: Any, name: str = "default") -> dict[str, Any]:
    """The object, as people write it."""
    return {"apiVersion": VERSION, "kind": "NetworkLogging", "metadata": {"name": name}, "spec": spec}


VALID: list[tuple[dict[str, Any] | None, LoggingSpec]] = [
    ({"cluster": {"allow": {"log": True}, "deny": {"log": True}}}, LoggingSpec(LogClass(log=True), LogClass(log=True))),
    ({"cluster": {"deny": {"log": True, "delegate": True}}}, LoggingSpec(deny=LogClass(log=True, delegate=True))),
    ({"cluster": {"allow": {"log": True, "delegate": False}}}, LoggingSpec(LogClass(log=True))),
    ({"cluster": {"allow": {"log": False, "delegate": False}, "deny": None}}, LoggingSpec()),
    ({"cluster": {}}, LoggingSpec()),
    ({}, LoggingSpec()),
    (None, LoggingSpec()),
]
INVALID: list[tuple[Any, str]] = [
    ({"cluster": {"allow": {"log": False, "delegate": True}}}, "spec.cluster.allow.delegate"),
    ({"cluster": {"deny": {"delegate": True}}}, "spec.cluster.deny.delegate"),
    ({"cluster": {"deny": {"log": "true"}}}, "spec.cluster.deny.log"),
    ({"cluster": {"deny": {"log": 1}}}, "spec.cluster.deny.log"),
    ({"cluster": {"allow": [{"log": True}]}}, "spec.cluster.allow"),
    ({"cluster": "all"}, "spec.cluster"),
    ("all", "spec"),
]


@pytest.mark.parametrize(("spec", "expected"), VALID)
def test_what_is_not_written_is_false(spec: dict[str, Any] | None, expected: LoggingSpec) -> None:
    made = parse(network_logging(spec))
    assert isinstance(made, NetworkLogging)
    assert (made.spec, made.invalid) == (expected, "")


@pytest.mark.parametrize(("spec", "field"), INVALID)
def test_what_the_definition_refuses_is_refused(spec: Any, field: str) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        parse(network_logging(spec))
    assert caught.value.field == field


@pytest.mark.parametrize(("spec", "field"), INVALID)
def test_an_invalid_object_of_the_api_server_is_known_as_invalid(spec: Any, field: str) -> None:
    item = network_logging(spec)
    with pytest.raises(InvalidObjectError) as caught:
        LOGGING_RESOURCE.read(item)
    found = LOGGING_RESOURCE.readable(item, [caught.value])
    assert isinstance(found, NetworkLogging)
    assert found.invalid.startswith(f"{field}: ")


def test_an_object_of_another_name_does_not_count() -> None:
    item = network_logging({}, name="other")
    with pytest.raises(InvalidObjectError, match="must be default"):
        LOGGING_RESOURCE.read(item)
    assert LOGGING_RESOURCE.readable(item, [InvalidObjectError("metadata.name", "must be default")]) is None
    assert LOGGING_RESOURCE.gone(item).key.name == "other"


@pytest.mark.parametrize(
    ("document", "mistake"),
    [
        (network_logging({"cluster": {"alow": {"log": True}}}), "spec.cluster.alow"),
        (network_logging({"cluster": {"allow": {"logs": True}}}), "spec.cluster.allow.logs"),
        (network_logging({"allow": {"log": True}}), "spec.allow"),
        ({**network_logging({}), "apiVersion": "networking.gke.io/v1"}, "apiVersion"),
        (network_logging({}, name="all"), "metadata.name"),
    ],
)
def test_a_mistake_in_a_manifest_is_named(document: dict[str, Any], mistake: str) -> None:
    made, mistakes = read_manifest(document)
    assert made is None
    assert [one.field for one in mistakes] == [mistake]


def policy(value: Any) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "shop", "annotations": {LOGGING: value}}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {}}


@pytest.mark.parametrize("value", ["true", "True", "yes", "false", "", "x" * 1000])
def test_an_annotation_is_read_as_it_is_written_and_is_not_part_of_what_is_enforced(value: str) -> None:
    made = parse(policy(value))
    assert isinstance(made, NetworkPolicy)
    assert made.logging == value[:64]
    unset = parse({**policy(value), "metadata": {"name": "web", "namespace": "shop"}})
    assert made != unset
    assert repr(made) == repr(unset), "the digest of what is enforced is made from it"


def test_each_kind_has_its_annotation() -> None:
    metadata = {"name": "guard", "annotations": {LOGGING: "true"}}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    group = "policy.networking.k8s.io"
    documents = [
        {"apiVersion": f"{group}/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": metadata, "spec": spec},
        {"apiVersion": f"{group}/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": metadata, "spec": spec},
        {
            "apiVersion": f"{group}/v1alpha1",
            "kind": "BaselineAdminNetworkPolicy",
            "metadata": {**metadata, "name": "default"},
            "spec": {"subject": {"namespaces": {}}},
        },
    ]
    for document in documents:
        made = parse(document)
        assert isinstance(made, ClusterNetworkPolicy)
        assert made.logging == "true"
    namespace = parse(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": {DENY_LOGGING: "true"}}}
    )
    assert isinstance(namespace, Namespace)
    assert namespace.deny_logging == "true"


def test_an_annotation_that_is_not_text_makes_a_manifest_invalid_and_no_policy_of_the_api_server() -> None:
    """YAML reads an unquoted true as a boolean, which the API server refuses."""
    _, mistakes = read_manifest(policy(True))  # noqa: FBT003 - the value is the point
    assert [one.field for one in mistakes] == [f"metadata.annotations[{LOGGING}]"]
    [resource] = [one for one in RESOURCES if one.type is NetworkPolicy]
    made = resource.readable(policy(True), [])  # noqa: FBT003 - as above
    assert isinstance(made, NetworkPolicy)
    assert made.logging is None
    assert made.ingress == ()
