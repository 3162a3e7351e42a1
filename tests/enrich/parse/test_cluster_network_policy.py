"""What a ClusterNetworkPolicy may say, which field is refused, and what stands in for what is not understood."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.model import Action, ClusterNetworkPolicy, Namespace, NetworkPolicy, Tier
from enrich.parse.objects import InvalidObjectError, parse
from enrich.sources.resources import RESOURCES, Resource

VERSION = "policy.networking.k8s.io/v1alpha2"
PODS: list[dict[str, Any]] = [{"namespaces": {}}]
ANY = {"action": "Deny", "from": PODS}


def document(**spec: Any) -> dict[str, Any]:
    given = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, **spec}
    return {"apiVersion": VERSION, "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": given}


def rule(**rest: Any) -> dict[str, Any]:
    return {"action": "Accept", "to": [{"networks": ["10.0.0.0/8"]}], **rest}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tier": "Network"}, "spec.tier"),
        ({"tier": None}, "spec.tier"),
        ({"priority": 1001}, "spec.priority"),
        ({"priority": -1}, "spec.priority"),
        ({"priority": None}, "spec.priority"),
        ({"subject": {}}, "spec.subject"),
        ({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}, "spec.subject"),
        ({"subject": {"pods": {"namespaceSelector": {}}}}, "spec.subject.pods.podSelector"),
        ({"ingress": [ANY] * 26}, "spec.ingress"),
        ({"ingress": [{**ANY, "action": "Allow"}]}, "spec.ingress[0].action"),
        ({"ingress": [{**ANY, "name": "n" * 101}]}, "spec.ingress[0].name"),
        ({"ingress": [{"action": "Deny"}]}, "spec.ingress[0].from"),
        ({"ingress": [{"action": "Deny", "from": []}]}, "spec.ingress[0].from"),
        ({"ingress": [{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]}, "spec.ingress[0].from[0]"),
        ({"egress": [rule(to=[{"namespaces": {}, "nodes": {}}])]}, "spec.egress[0].to[0]"),
        ({"egress": [rule(to=[{"networks": []}])]}, "spec.egress[0].to[0].networks"),
        ({"egress": [rule(to=[{"networks": ["10.0.0.0/8", "10.0.0.0/8"]}])]}, "spec.egress[0].to[0].networks"),
        ({"egress": [rule(to=[{"networks": ["10.0.0.1"]}])]}, "spec.egress[0].to[0].networks[0]"),
        ({"egress": [rule(to=[{"networks": ["10.0.0.0/08"]}])]}, "spec.egress[0].to[0].networks[0]"),
        ({"egress": [rule(to=[{"networks": ["010.0.0.0/8"]}])]}, "spec.egress[0].to[0].networks[0]"),
        ({"egress": [rule(to=[{"networks": ["10.0.0.0/255.0.0.0"]}])]}, "spec.egress[0].to[0].networks[0]"),
        ({"egress": [rule(to=[{"networks": ["::ffff:10.0.0.0/104"]}])]}, "spec.egress[0].to[0].networks[0]"),
        ({"egress": [rule(to=[{"domainNames": ["kubernetes.io"]}])]}, "spec.egress[0].to[0].domainNames"),
        ({"egress": [rule(protocols=[])]}, "spec.egress[0].protocols"),
        ({"egress": [rule(protocols=[{"tcp": {}}])]}, "spec.egress[0].protocols[0].tcp"),
        ({"egress": [rule(protocols=[{"destinationNamedPort": "web"}])]}, "spec.egress[0].to[0].networks"),
        (
            {"egress": [rule(protocols=[{"tcp": {"destinationPort": {"range": {"start": 9, "end": 9}}}}])]},
            "spec.egress[0].protocols[0].tcp.destinationPort.range",
        ),
        (
            {"egress": [rule(protocols=[{"udp": {"destinationPort": {"number": 65536}}}])]},
            "spec.egress[0].protocols[0].udp.destinationPort.number",
        ),
    ],
)
def test_what_the_crd_would_refuse_is_refused_by_its_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        parse(document(**spec))
    assert caught.value.field == field


def test_somebody_elses_kind_of_that_name_is_none_of_ours() -> None:
    assert parse({**document(), "apiVersion": "crd.antrea.io/v1alpha1"}) is None
    with pytest.raises(InvalidObjectError, match="apiVersion"):
        parse({**document(), "apiVersion": "policy.networking.k8s.io/v1alpha1"})


def test_an_unknown_mode_is_refused_by_its_annotation() -> None:
    wrong = document()
    wrong["metadata"]["annotations"] = {"kubeweir.io/mode": "Audit"}
    with pytest.raises(InvalidObjectError) as caught:
        parse(wrong)
    assert caught.value.field == "metadata.annotations[kubeweir.io/mode]"


def _resource(kind: type) -> Resource:
    return next(one for one in RESOURCES if one.type is kind)


@pytest.mark.parametrize("kind", [ClusterNetworkPolicy, NetworkPolicy, Namespace])
def test_what_the_server_holds_with_an_unknown_mode_is_enforced_as_written(
    kind: type[ClusterNetworkPolicy | NetworkPolicy | Namespace],
) -> None:
    spec = document(ingress=[ANY])["spec"] if kind is ClusterNetworkPolicy else {"podSelector": {}, "ingress": [{}]}
    meta = {"name": "p", "namespace": "shop", "labels": {"team": "a"}, "annotations": {"kubeweir.io/mode": "Audit"}}
    found = _resource(kind).readable({"metadata": meta, "spec": spec}, [])
    assert isinstance(found, kind)
    assert not found.audit
    if isinstance(found, Namespace):
        assert found.labels["team"] == "a"
    else:
        assert found.ingress is not None
        assert len(found.ingress) == 1


def test_rules_that_are_not_understood_are_closed_and_the_others_stand() -> None:
    odd: dict[str, Any] = {"somethingNew": {}}
    spec = {
        "tier": "Baseline", "priority": 7, "subject": {"namespaces": {"matchLabels": {"a": "b"}}},
        "ingress": [
            {"action": "Accept", "from": [odd]}, {"action": "Pass", "from": [odd]}, {"action": "Accept", "from": PODS}
        ],
        "egress": [rule(to=[{"domainNames": ["kubernetes.io"]}])],
    }  # fmt: skip
    found = _resource(ClusterNetworkPolicy).readable({"metadata": {"name": "p"}, "spec": spec}, [])
    assert isinstance(found, ClusterNetworkPolicy)
    assert (found.tier, found.priority) == (Tier.BASELINE, 7)
    accepted, passed, stands = found.ingress
    assert (accepted.action, accepted.peers) == (Action.ACCEPT, ()), "matches no traffic"
    assert passed.action is Action.DENY
    assert {peer.ip_block.cidr for peer in passed.peers if peer.ip_block} == {"0.0.0.0/0", "::/0"}
    assert stands.action is Action.ACCEPT
    assert len(stands.peers) == 1
    assert found.egress[0].peers == ()


def test_of_a_subject_that_is_not_understood_only_denials_remain() -> None:
    spec = document(subject={"odd": {}}, ingress=[ANY, {**ANY, "action": "Accept"}])["spec"]
    found = _resource(ClusterNetworkPolicy).readable({"metadata": {"name": "p"}, "spec": spec}, [])
    assert isinstance(found, ClusterNetworkPolicy)
    assert [len(one.peers) for one in found.ingress] == [1, 0]
    assert found.namespaces.requirements == ()


def test_a_deleted_one_is_known_by_its_name_whatever_is_in_it() -> None:
    gone = _resource(ClusterNetworkPolicy).gone({"metadata": {"name": "p"}, "spec": {"tier": "?"}})
    assert str(gone.key) == "p"
