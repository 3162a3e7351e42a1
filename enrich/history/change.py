"""A change of policies: those that are put in force, and those that are not any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from enrich.history.versions import policy_key
from enrich.model import ClusterNetworkPolicy, Name, NetworkPolicy, Policy
from enrich.policy.matching import PolicyView


@dataclass(frozen=True, slots=True)
class Change:
    """What is different from the policies of the time. Without anything, nothing is."""

    policies: tuple[Policy, ...] = ()
    """Put in force; one of the same kind and name is replaced."""
    deleted: frozenset[tuple[str, str, str]] = frozenset()
    """Kind, namespace and name of policies that are not in force."""
    replace_all: bool = False
    """No other policy than :attr:`policies` is in force."""

    def applied(self, view: PolicyView) -> PolicyView:
        """Return the view as it would be with this change."""
        policies: dict[Name, NetworkPolicy] = {}
        tiers: dict[Name, ClusterNetworkPolicy] = {}
        if not self.replace_all:
            policies, tiers = dict(view.policies), dict(view.cluster_policies)
        for kind, namespace, name in self.deleted:
            kept = policies if kind == NetworkPolicy.__name__ else tiers
            kept.pop(policy_key(kind, namespace, name), None)
        for policy in self.policies:
            if isinstance(policy, NetworkPolicy):
                policies[policy.key] = policy
            else:
                tiers[policy_key(type(policy).__name__, "", policy.name)] = policy
        return replace(view, policies=policies, cluster_policies=tiers)

    def absent(self, views: Iterable[PolicyView]) -> list[tuple[str, str, str]]:
        """Return the policies to delete that none of the views has."""
        there = set()
        for view in views:
            there |= {(type(one).__name__, *one.key) for one in view.all_policies()}
        return sorted(self.deleted - there)
