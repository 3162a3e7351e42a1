"""Finds which policies apply to a pod, while policies change.

The result is in the order in which policies decide and are listed: the admin tier by priority, the baseline tier by
priority, then the NetworkPolicies of the pod's namespace by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from enrich.model import ClusterNetworkPolicy, Name, NetworkPolicy, Pod, Policy, Tier
from enrich.policy.decide import is_audited, isolates, policies_in_tier, selects
from enrich.policy.matching import Direction, PolicyView
from probe.policy.ruleset import AppliedPolicy, digest


class PolicySelection:
    """The policies that exist, by namespace and by tier."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, dict[Name, NetworkPolicy]] = {}
        self._in_tiers: list[ClusterNetworkPolicy] = []
        self._digests: dict[tuple[type, Name], tuple[Policy, str]] = {}

    def update(
        self,
        view: PolicyView,
        policies: Iterable[tuple[NetworkPolicy | None, NetworkPolicy | None]],
        cluster_policies: Iterable[tuple[ClusterNetworkPolicy | None, ClusterNetworkPolicy | None]],
    ) -> set[str] | None:
        """Apply changes, each (before, after).

        Return the namespaces whose pods may have other policies now; None if that is all of them.
        """
        namespaces = set()
        for before, after in policies:
            if before is not None:
                self._by_namespace[before.namespace].pop(before.key)
                if not self._by_namespace[before.namespace]:
                    del self._by_namespace[before.namespace]
                self._digests.pop((NetworkPolicy, before.key), None)
                namespaces.add(before.namespace)
            if after is not None:
                self._by_namespace.setdefault(after.namespace, {})[after.key] = after
                namespaces.add(after.namespace)
        changed = [before or after for before, after in cluster_policies]
        for policy in changed:
            if policy is not None:
                self._digests.pop((type(policy), policy.key), None)
        if not changed:
            return namespaces
        self._in_tiers = [policy for tier in Tier for policy in policies_in_tier(view, tier)]
        return None

    def policies_of(self, view: PolicyView, pod: Pod) -> tuple[AppliedPolicy, ...]:
        """Return the policies that apply to a pod."""
        in_namespace = sorted(self._by_namespace.get(pod.namespace, {}).items())
        isolating = (
            policy for _, policy in in_namespace if any(isolates(policy, pod, direction) for direction in Direction)
        )
        network = [self._applied(policy, audited=is_audited(view, policy)) for policy in isolating]
        cluster = [
            self._applied(policy, audited=policy.audit) for policy in self._in_tiers if selects(view, policy, pod)
        ]
        return (*cluster, *network)

    def _applied(self, policy: Policy, *, audited: bool) -> AppliedPolicy:
        key = (type(policy), policy.key)
        known = self._digests.get(key)
        if known is None or known[0] is not policy:
            known = self._digests[key] = (policy, digest(policy))
        return AppliedPolicy(policy, audited, f"{known[1]}{'a' if audited else ''}")
