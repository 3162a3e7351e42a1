"""Parses AdminNetworkPolicy and BaselineAdminNetworkPolicy, the predecessors of ClusterNetworkPolicy.

Clusters still have them (``policy.networking.k8s.io/v1alpha1``). They mean what policies of the Admin and the Baseline
tier mean, in other words: ``Allow`` for ``Accept``, ``ports`` for ``protocols``. Texts in quotes are the API's own
(adminnetworkpolicy_types.go, baselineadminnetworkpolicy_types.go and shared_types.go).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from enrich.model import Action, AdminNetworkPolicy, BaselineAdminNetworkPolicy, PolicyPort, Protocol, Tier
from enrich.parse.cluster_network_policy import MAX_PRIORITY, Words, named_ports, priority_of, tiered_policy
from enrich.parse.cursor import Field

_ONLY_NAME: Final = "default"


def admin_network_policy(root: Field) -> AdminNetworkPolicy:
    """Parse an AdminNetworkPolicy, as :func:`enrich.parse.cluster_network_policy.cluster_network_policy` does."""
    priority = _spec(root)["priority"].attempt(priority_of)
    return tiered_policy(AdminNetworkPolicy, root, _WORDS, Tier.ADMIN, priority)


def baseline_admin_network_policy(root: Field) -> BaselineAdminNetworkPolicy:
    """Parse the BaselineAdminNetworkPolicy. It has no priority: it comes after all other policies of its tier."""
    _spec(root)
    name = root["metadata"]["name"]
    if name.is_set and name.value != _ONLY_NAME:
        name.complain(f"must be {_ONLY_NAME}, is {name.value!r}: a cluster has one at most")
    return tiered_policy(BaselineAdminNetworkPolicy, root, _BASELINE_WORDS, Tier.BASELINE, MAX_PRIORITY)


def _spec(root: Field) -> Field:
    spec = root["spec"]
    if not spec.is_set:
        spec.refuse("is required")
    return spec


def _ports(port: Field) -> list[PolicyPort]:
    """An AdminNetworkPolicyPort. "If not specified", the protocol "defaults to TCP"."""
    field = port.only("portNumber", "portRange", "namedPort")
    kind = field.path.rpartition(".")[2]
    if kind == "namedPort":
        return named_ports(field)
    transport = Protocol[field["protocol"].choice("TCP", "UDP", "SCTP", default="TCP")]
    if kind == "portNumber":
        return [PolicyPort(transport, field["port"].port())]
    first, last = field["start"].survey(Field.port), field["end"].survey(Field.port)
    if first is None or last is None:
        return []
    # The API says that start "must be less than end", and no validation of its CRD refuses one that is not.
    if first > last:
        field.fail(f"start must be less than end, is {first} to {last}")
    return [PolicyPort(transport, first, last)]


_ACTIONS: Final = {"Allow": Action.ACCEPT, "Deny": Action.DENY, "Pass": Action.PASS}
_WORDS: Final = Words(_ACTIONS, "ports", _ports, "namedPort", 100)
_BASELINE_WORDS: Final = replace(
    _WORDS,
    actions={word: action for word, action in _ACTIONS.items() if action is not Action.PASS},
    egress_peers=("namespaces", "pods", "nodes", "networks"),
)
