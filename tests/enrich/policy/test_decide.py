"""Tests of the policy engine: the public cases, and what they leave out (tiers, audit mode, the own node)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enrich.model import (
    POLICY_API_VERSIONS,
    ClusterNetworkPolicy,
    Name,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Protocol,
)
from enrich.parse.objects import InvalidObjectError, parse
from enrich.policy.decide import decide, is_connection_allowed
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import PolicyRef, Reason, Verdict
from tests.conformance.case import load, rows
from tests.conformance.state import State
from tests.conformance.suite import CASES, case_files

CLIENT, SERVER, WORLD, NODE_1, NODE_2 = "10.0.0.1", "10.0.0.2", "8.8.8.8", "192.168.0.1", "192.168.0.2"
ANY_POD: list[dict[str, Any]] = [{"namespaces": {}}]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("file", case_files())
def test_the_engine_gives_the_expected_outcome(file: Path, family: int) -> None:
    case = load(file, family)
    state = State(case)
    wrong: list[Any] = []
    for step in case.steps:
        for action in step.actions:
            state.apply(action)
        view = state.view("")
        for source, destination, protocol, port, allowed in rows(step.expect):
            ends = _end(state, view, source), _end(state, view, destination)
            if is_connection_allowed(view, *ends, protocol, port) != allowed:
                wrong.append((case.id, source, destination, protocol.name, port, allowed))
    assert not wrong


def _end(state: State, view: PolicyView, name: str) -> Endpoint:
    pod = view.pods.get(Name(*name.split("/"))) if "/" in name else None
    return Endpoint(state.ip(name), None if pod is None or pod.host_network else pod)


def _validation() -> list[Any]:
    entries = json.loads((CASES.parent / "validation.json").read_text())
    return [pytest.param(entry, id=entry["id"]) for entry in entries]


@pytest.mark.parametrize("entry", _validation())
def test_objects_that_the_api_refuses_are_refused(entry: dict[str, Any]) -> None:
    if entry["valid"]:
        assert parse(entry["object"]) is not None
        return
    with pytest.raises(InvalidObjectError) as caught:
        parse(entry["object"])
    assert caught.value.field.startswith("spec.")


def made(kind: str, name: str, **rest: Any) -> Object:
    versions = {kind.__name__: version for kind, version in POLICY_API_VERSIONS.items()}
    namespace, _, short = name.rpartition("/")
    meta = {"name": short, "namespace": namespace or None, **rest.pop("metadata", {})}
    found = parse({"apiVersion": versions.get(kind, "v1"), "kind": kind, "metadata": meta, **rest})
    assert found is not None
    return found


def cnp(name: str, tier: str = "Admin", priority: int = 10, mode: str | None = None, **spec: Any) -> Object:
    meta = {"annotations": {"kubeweir.io/mode": mode}}
    return made(
        "ClusterNetworkPolicy", name, metadata=meta,
        spec={"tier": tier, "priority": priority, "subject": {"namespaces": {}}, **spec},
    )  # fmt: skip


def netpol(name: str, mode: str | None = None, **spec: Any) -> Object:
    return made(
        "NetworkPolicy", name, metadata={"annotations": {"kubeweir.io/mode": mode}}, spec={"podSelector": {}, **spec}
    )


def cluster(*objects: Object, mode: str | None = None) -> PolicyView:
    """Return a client and a server in one namespace, on one of two nodes, with some policies."""
    nodes = [
        made("Node", name, metadata={"labels": {"name": name}},
             status={"addresses": [{"type": "InternalIP", "address": ip}]})
        for name, ip in (("n1", NODE_1), ("n2", NODE_2))
    ]  # fmt: skip
    pods = [
        made("Pod", f"shop/{name}", metadata={"labels": {"app": name}}, status={"podIP": ip},
             spec={"nodeName": "n1", "containers": [{"ports": [{"name": "web", "containerPort": 80}]}]})
        for name, ip in (("client", CLIENT), ("server", SERVER))
    ]  # fmt: skip
    home = made("Namespace", "shop", metadata={"annotations": {"kubeweir.io/mode": mode}})
    everything = [home, *nodes, *pods, *objects]

    def of(kind: type) -> dict[Any, Any]:
        return {one.key: one for one in everything if isinstance(one, kind)}

    return PolicyView(of(Pod), of(Namespace), of(Node), of(NetworkPolicy), of(ClusterNetworkPolicy), "n1")


def egress(view: PolicyView, ip: str, port: int = 80) -> tuple[Verdict, Reason, tuple[str, ...]]:
    return _decided(view, "client", Direction.EGRESS, ip, port)


def ingress(view: PolicyView, ip: str, port: int = 80) -> tuple[Verdict, Reason, tuple[str, ...]]:
    return _decided(view, "server", Direction.INGRESS, ip, port)


def _decided(
    view: PolicyView, subject: str, direction: Direction, ip: str, port: int
) -> tuple[Verdict, Reason, tuple[str, ...]]:
    peer = Endpoint(ip, next((pod for pod in view.pods.values() if ip in pod.ips), None))
    decision = decide(view, view.pods[Name("shop", subject)], direction, peer, Protocol.TCP, port)
    return decision.verdict, decision.reason, tuple(map(_words, decision.policies))


def _words(ref: PolicyRef) -> str:
    return f"{ref.name}" if ref.rule is None else f"{ref.name}#{ref.rule}"


ALLOW_ALL = (Verdict.ALLOW, Reason.NO_POLICY, ())


def test_the_first_matching_rule_of_the_lowest_priority_decides() -> None:
    late = cnp("a-late", priority=20, ingress=[{"action": "Deny", "from": ANY_POD}])
    early = cnp("z-early", priority=5, ingress=[
        {"action": "Accept", "from": ANY_POD, "protocols": [{"destinationNamedPort": "web"}]},
        {"action": "Deny", "from": ANY_POD, "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]},
    ])  # fmt: skip
    view = cluster(late, early)
    assert ingress(view, CLIENT) == (Verdict.ALLOW, Reason.POLICY, ("z-early#0",))
    assert ingress(view, CLIENT, 81) == (Verdict.DENY, Reason.EXPLICIT_DENY, ("a-late#0",))
    assert ingress(view, WORLD) == ALLOW_ALL, "selecting a pod does not isolate it"


def test_among_equal_priorities_the_first_by_name_decides() -> None:
    accept = cnp("b", ingress=[{"action": "Accept", "from": ANY_POD}])
    deny = cnp("a", ingress=[{"action": "Deny", "from": ANY_POD}])
    assert ingress(cluster(accept, deny), CLIENT) == ingress(cluster(deny, accept), CLIENT)
    assert ingress(cluster(accept, deny), CLIENT)[2] == ("a#0",)


def test_pass_leaves_the_decision_to_the_next_tier() -> None:
    admin = cnp("admin", ingress=[{"action": "Pass", "from": ANY_POD}, {"action": "Accept", "from": ANY_POD}])
    baseline = cnp("baseline", "Baseline", ingress=[{"action": "Deny", "from": ANY_POD}])
    isolating = netpol("shop/closed", ingress=[])
    assert ingress(cluster(admin, baseline), CLIENT) == (Verdict.DENY, Reason.EXPLICIT_DENY, ("baseline#0",))
    assert ingress(cluster(admin, baseline, isolating), CLIENT) == (Verdict.DENY, Reason.DEFAULT_DENY, ("closed",))
    assert ingress(cluster(admin), CLIENT) == ALLOW_ALL


def test_networkpolicy_is_final_before_the_baseline() -> None:
    baseline = cnp("baseline", "Baseline", ingress=[{"action": "Deny", "from": ANY_POD}])
    allows = netpol("shop/open", ingress=[{"from": [{"podSelector": {}}]}])
    assert ingress(cluster(baseline, allows), CLIENT) == (Verdict.ALLOW, Reason.POLICY, ("open#0",))


@pytest.mark.parametrize("tier", ["Admin", "Baseline"])
def test_the_own_node_may_be_denied_by_a_cluster_policy_on_egress(tier: str) -> None:
    deny = cnp("deny", tier, egress=[{"action": "Deny", "to": [{"nodes": {"matchLabels": {"name": "n1"}}}]}])
    assert egress(cluster(deny), NODE_1) == (Verdict.DENY, Reason.EXPLICIT_DENY, ("deny#0",))
    assert egress(cluster(deny), NODE_2) == ALLOW_ALL
    assert ingress(cluster(deny), NODE_1) == (Verdict.ALLOW, Reason.NODE, ())
    closed = netpol("shop/closed", policyTypes=["Ingress", "Egress"])
    assert egress(cluster(closed), NODE_1) == (Verdict.ALLOW, Reason.NODE, ())
    expected = (Verdict.DENY, Reason.EXPLICIT_DENY, ("deny#0",)) if tier == "Admin" else (
        Verdict.ALLOW, Reason.NODE, ())  # fmt: skip
    assert egress(cluster(deny, closed), NODE_1) == expected, "NetworkPolicy is final for the pods that it selects"


def test_networks_match_pods_too_and_a_pod_always_reaches_itself() -> None:
    deny = cnp("deny", egress=[{"action": "Deny", "to": [{"networks": ["10.0.0.1/24"]}]}])
    assert egress(cluster(deny), SERVER)[0] is Verdict.DENY
    assert egress(cluster(deny), CLIENT) == (Verdict.ALLOW, Reason.SELF, ())


@pytest.mark.parametrize("by_namespace", [True, False])
def test_a_policy_in_audit_mode_allows_what_it_would_deny(by_namespace: bool) -> None:
    namespace, own = ("audit", None) if by_namespace else ("enforce", "audit")
    closed = netpol("shop/closed", own, ingress=[{"ports": [{"port": 443}]}])
    view = cluster(closed, mode=namespace)
    assert ingress(view, CLIENT) == (Verdict.AUDIT, Reason.DEFAULT_DENY, ("closed",))
    assert ingress(view, CLIENT, 443) == ALLOW_ALL, "what it allows, it does not do: the verdict is the others' alone"


def test_an_enforced_policy_decides_beside_one_in_audit_mode() -> None:
    audited = netpol("shop/audited", "audit", ingress=[{"from": [{"podSelector": {}}]}])
    closed = netpol("shop/closed", ingress=[])
    assert ingress(cluster(audited, closed), CLIENT) == (Verdict.DENY, Reason.DEFAULT_DENY, ("closed",))
    opened = netpol("shop/open", ingress=[{}])
    assert ingress(cluster(audited, opened), WORLD) == (Verdict.ALLOW, Reason.POLICY, ("open#0",))


def test_a_cluster_policy_is_in_audit_mode_only_by_its_own_annotation() -> None:
    rules = [{"action": "Deny", "from": ANY_POD}]
    audited, enforced = cnp("audited", mode="audit", ingress=rules), cnp("enforced", ingress=rules)
    assert ingress(cluster(audited), CLIENT) == (Verdict.AUDIT, Reason.EXPLICIT_DENY, ("audited#0",))
    assert ingress(cluster(audited, enforced), CLIENT) == (Verdict.DENY, Reason.EXPLICIT_DENY, ("enforced#0",))
    assert ingress(cluster(enforced, mode="audit"), CLIENT)[0] is Verdict.DENY
