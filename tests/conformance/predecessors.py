"""Writes ClusterNetworkPolicies as their predecessors of v1alpha1, which mean the same in other words."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from tests.conformance.case import Action, Case

_VERSION = "policy.networking.k8s.io/v1alpha1"


def as_predecessor(policy: dict[str, Any], *, baseline_name: str = "default") -> dict[str, Any]:
    """Return the AdminNetworkPolicy, or the BaselineAdminNetworkPolicy, that says the same."""
    spec = copy.deepcopy(policy["spec"])
    baseline = spec.pop("tier") == "Baseline"
    meta = dict(policy["metadata"])
    if baseline:
        del spec["priority"]
        meta["name"] = baseline_name
    _namespaces_of(spec["subject"])
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction) or ():
            rule["action"] = rule["action"].replace("Accept", "Allow")
            for peer in rule[peers]:
                _namespaces_of(peer)
            if "protocols" in rule:
                rule["ports"] = [_port(protocol) for protocol in rule.pop("protocols")]
    kind = "BaselineAdminNetworkPolicy" if baseline else "AdminNetworkPolicy"
    return {"apiVersion": _VERSION, "kind": kind, "metadata": meta, "spec": spec}


def _namespaces_of(selection: dict[str, Any]) -> None:
    """v1alpha1 requires the namespaceSelector of a NamespacedPod."""
    if "pods" in selection:
        selection["pods"].setdefault("namespaceSelector", {})


def _port(protocol: dict[str, Any]) -> dict[str, Any]:
    if "destinationNamedPort" in protocol:
        return {"namedPort": protocol["destinationNamedPort"]}
    ((transport, within),) = protocol.items()
    port = within["destinationPort"]
    if "range" in port:
        return {"portRange": {"protocol": transport.upper(), **port["range"]}}
    number = {"port": port["number"]}
    return {"portNumber": number if transport == "tcp" else {"protocol": transport.upper(), **number}}


def has_predecessor(policy: dict[str, Any]) -> bool:
    """Whether v1alpha1 can say it: its baseline has no Pass, and its domain names are no case here."""
    rules = [*(policy["spec"].get("ingress") or ()), *(policy["spec"].get("egress") or ())]
    return policy["spec"]["tier"] == "Admin" or all(rule["action"] != "Pass" for rule in rules)


def with_predecessors(case: Case) -> int:
    """Replace the ClusterNetworkPolicies of a case by predecessors where that is possible; return how many."""
    actions = [action for step in case.steps for action in step.actions if action.kind == "ClusterNetworkPolicy"]
    written = [action for action in actions if action.op != "delete"]
    by_name: dict[str, list[Action]] = {}
    for action in written:
        by_name.setdefault(action.object["metadata"]["name"], []).append(action)
    tiers = Counter(action.object["spec"]["tier"] for name in by_name for action in by_name[name][:1])
    replaced = 0
    for name, versions in by_name.items():
        documents = [action.object for action in versions]
        same_tier = len({document["spec"]["tier"] for document in documents}) == 1
        baseline = documents[0]["spec"]["tier"] == "Baseline"
        if not same_tier or not all(map(has_predecessor, documents)) or (baseline and tiers["Baseline"] > 1):
            continue
        kind: Any = "BaselineAdminNetworkPolicy" if baseline else "AdminNetworkPolicy"
        for action in actions:
            if action.object["metadata"]["name"] == name:
                action.kind = kind
                if action.op != "delete":
                    action.object = as_predecessor(action.object)
                elif baseline:
                    action.object = {"metadata": {"name": "default"}}
        replaced += 1
    return replaced
