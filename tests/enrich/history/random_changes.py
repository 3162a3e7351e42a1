"""Random changes of policies for hypothesis, and the cluster that really has them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from enrich.history.change import Change
from enrich.history.versions import policy_key
from enrich.model import ClusterNetworkPolicy, Name, NetworkPolicy, Policy
from enrich.policy.matching import PolicyView
from tests.probe.policy.random_clusters import cluster_policies, network_policies


@st.composite
def random_changes(draw: st.DrawFn, view: PolicyView) -> Change:
    drawn = draw(st.lists(st.one_of(network_policies("np1"), network_policies("new")), max_size=2))
    drawn += draw(st.lists(st.one_of(cluster_policies("cnp1"), cluster_policies("cnp9")), max_size=1))
    made: dict[tuple[str, Name], Policy] = {}
    for one in drawn:
        assert isinstance(one, NetworkPolicy | ClusterNetworkPolicy)
        made[type(one).__name__, one.key] = one
    there: list[Policy] = [*view.policies.values(), *view.cluster_policies.values()]
    deleted = draw(st.lists(st.sampled_from(there), max_size=2)) if there else []
    named = ((type(one).__name__, getattr(one, "namespace", ""), one.name) for one in deleted)
    return Change(tuple(made.values()), frozenset(named), draw(st.integers(0, 4)) == 0)


def real(change: Change, view: PolicyView) -> PolicyView:
    """Apply a change by hand, as the cluster would have it."""
    policies: dict[Any, Any] = {}
    there: list[Policy] = [*view.policies.values(), *view.cluster_policies.values()]
    for one in () if change.replace_all else there:
        if (type(one).__name__, getattr(one, "namespace", ""), one.name) not in change.deleted:
            policies[type(one).__name__, one.key] = one
    policies.update({(type(one).__name__, one.key): one for one in change.policies})
    networks = {one.key: one for one in policies.values() if isinstance(one, NetworkPolicy)}
    tiers = {
        policy_key(type(one).__name__, "", one.name): one
        for one in policies.values()
        if isinstance(one, ClusterNetworkPolicy)
    }
    return PolicyView(view.pods, view.namespaces, view.nodes, networks, tiers)
