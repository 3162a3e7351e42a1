"""What the predecessors of ClusterNetworkPolicy may say, and what stands in for what is not understood."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.model import (
    Action,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    ClusterNetworkPolicy,
    ClusterRule,
    PolicyPort,
    Protocol,
    Tier,
)
from enrich.parse.cluster_network_policy import ANYWHERE
from enrich.parse.known_fields import unknown_fields
from enrich.parse.objects import InvalidObjectError, parse
from enrich.sources.resources import RESOURCES

VERSION = "policy.networking.k8s.io/v1alpha1"
PODS: list[dict[str, Any]] = [{"namespaces": {}}]


def admin(**spec: Any) -> dict[str, Any]:
    given = {"priority": 5, "subject": {"namespaces": {}}, **spec}
    return {"apiVersion": VERSION, "kind": "AdminNetworkPolicy", "metadata": {"name": "p"}, "spec": given}


def baseline(name: str = "default", **spec: Any) -> dict[str, Any]:
    given = {"subject": {"namespaces": {}}, **spec}
    return {"apiVersion": VERSION, "kind": "BaselineAdminNetworkPolicy", "metadata": {"name": name}, "spec": given}


def rule(**rest: Any) -> dict[str, Any]:
    return {"action": "Allow", "to": [{"networks": ["10.0.0.0/8"]}], **rest}


def strictly(document: dict[str, Any]) -> ClusterNetworkPolicy:
    made = parse(document)
    assert isinstance(made, ClusterNetworkPolicy)
    return made


def test_all_that_it_may_say() -> None:
    ports = [
        {"portNumber": {"port": 80}},
        {"portNumber": {"port": 53, "protocol": "UDP"}},
        {"portRange": {"start": 100, "end": 200, "protocol": "SCTP"}},
        {"namedPort": "web"},
    ]
    made = strictly(admin(
        subject={"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}},
        ingress=[{"action": "Pass", "name": "n", "from": PODS, "ports": ports}, {"action": "Deny", "from": PODS}],
        egress=[rule(), rule(to=[{"nodes": {}}, {"namespaces": {}}])],
    ))  # fmt: skip
    assert type(made) is AdminNetworkPolicy
    assert (made.tier, made.priority, made.name) == (Tier.ADMIN, 5, "p")
    assert [one.action for one in made.ingress] == [Action.PASS, Action.DENY]
    assert made.ingress[0].ports == (
        PolicyPort(Protocol.TCP, 80), PolicyPort(Protocol.UDP, 53), PolicyPort(Protocol.SCTP, 100, 200),
        *(PolicyPort(each, "web") for each in Protocol),
    )  # fmt: skip
    assert made.egress[0].action is Action.ACCEPT
    last = strictly(baseline(egress=[rule(action="Deny")]))
    assert type(last) is BaselineAdminNetworkPolicy
    assert (last.tier, last.priority) == (Tier.BASELINE, 1000)
    assert len(strictly(admin(ingress=[{"action": "Deny", "from": PODS}] * 100)).ingress) == 100


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (admin(priority=1001), "spec.priority"),
        (admin(priority=None), "spec.priority"),
        (admin(subject={}), "spec.subject"),
        (admin(egress=[rule(action="Accept")]), "spec.egress[0].action"),
        (admin(egress=[rule()] * 101), "spec.egress"),
        (admin(ingress=[{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]), "spec.ingress[0].from[0]"),
        (admin(egress=[rule(to=[{"domainNames": ["kubernetes.io"]}])]), "spec.egress[0].to[0].domainNames"),
        (admin(egress=[rule(ports=[])]), "spec.egress[0].ports"),
        (admin(egress=[rule(ports=[{"portNumber": {"port": 0}}])]), "spec.egress[0].ports[0].portNumber.port"),
        (
            admin(egress=[rule(ports=[{"portNumber": {"port": 1, "protocol": "ICMP"}}])]),
            "spec.egress[0].ports[0].portNumber.protocol",
        ),
        (admin(egress=[rule(ports=[{"portRange": {"start": 9, "end": 8}}])]), "spec.egress[0].ports[0].portRange"),
        (admin(egress=[rule(ports=[{"namedPort": "web"}])]), "spec.egress[0].to[0].networks"),
        (baseline("other"), "metadata.name"),
        (baseline(egress=[rule(action="Pass")]), "spec.egress[0].action"),
        (baseline(egress=[rule(to=[{"domainNames": ["kubernetes.io"]}])]), "spec.egress[0].to[0]"),
        ({**admin(), "apiVersion": "policy.networking.k8s.io/v1alpha2"}, "apiVersion"),
    ],
)
def test_what_is_refused(document: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidObjectError) as raised:
        parse(document)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rule(to=[{"domainNames": ["kubernetes.io"]}]), (Action.ACCEPT, ())),
        (rule(action="Deny", to=[{"domainNames": ["kubernetes.io"]}]), (Action.DENY, ANYWHERE)),
        (rule(action="Pass", to=[{"labels": {}}]), (Action.DENY, ANYWHERE)),
        (rule(action="Accept"), (Action.DENY, (rule(),))),
        (rule(action="Deny", ports=[{"icmp": {}}]), (Action.DENY, ANYWHERE)),
        (rule(ports=[{"icmp": {}}]), (Action.ACCEPT, ())),
    ],
)
def test_what_is_not_understood_fails_closed(given: dict[str, Any], expected: Any) -> None:
    problems: list[InvalidObjectError] = []
    made = parse(admin(egress=[given]), problems)
    assert isinstance(made, AdminNetworkPolicy)
    assert problems
    read: ClusterRule = made.egress[0]
    assert read.action is expected[0]
    if expected[1] in ((), ANYWHERE):
        assert (read.peers, read.ports) == (expected[1], ())


def test_without_a_subject_nothing_is_allowed_and_everything_that_is_denied_stays_denied() -> None:
    rules = [rule(), rule(action="Deny")]
    made = parse(admin(subject={"everybody": {}}, egress=rules), [])
    assert isinstance(made, AdminNetworkPolicy)
    assert [bool(one.peers) for one in made.egress] == [False, True]


@pytest.mark.parametrize("kind", [AdminNetworkPolicy, BaselineAdminNetworkPolicy])
def test_a_deleted_one_is_known_by_its_name(kind: type) -> None:
    resource = next(one for one in RESOURCES if one.type is kind)
    assert resource.path.startswith("/apis/policy.networking.k8s.io/v1alpha1/")
    gone = resource.gone({"metadata": {"name": "default", "uid": "u"}, "spec": {"priority": "x"}})
    assert (type(gone), gone.key.name) == (kind, "default")


def test_a_field_that_is_mistyped_is_an_error_in_a_manifest() -> None:
    everything = [
        {"portNumber": {"port": 80, "protocol": "TCP"}},
        {"portRange": {"start": 1, "end": 2, "protocol": "TCP"}},
        {"namedPort": "web"},
    ]
    rules: dict[str, Any] = {
        "ingress": [{"name": "n", "action": "Deny", "from": PODS, "ports": everything}],
        "egress": [rule()],
    }
    assert unknown_fields(admin(**rules), "AdminNetworkPolicy") == []
    assert unknown_fields(baseline(**rules), "BaselineAdminNetworkPolicy") == []
    mistyped = [{"action": "Deny", "form": PODS, "protocols": []}]
    found = unknown_fields(admin(ingress=mistyped), "AdminNetworkPolicy")
    assert [error.field for error in found] == ["spec.ingress[0].form", "spec.ingress[0].protocols"]
    assert unknown_fields(baseline(priority=1), "BaselineAdminNetworkPolicy")
