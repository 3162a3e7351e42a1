"""Changes of policies: what is different between two states of the cluster, in words. Values only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from enrich.model import Policy

Policies = Mapping[str, Policy]
"""By name as :func:`named` has it."""


class Change(msgspec.Struct, frozen=True):
    """One policy, and what became of it."""

    policy: str
    """KIND NAMESPACE/NAME, or KIND NAME: as records' policies are named here."""
    what: str
    at: float
    """When it was heard of, in seconds of the wall clock."""

    @property
    def kind(self) -> str:
        """NetworkPolicy or ClusterNetworkPolicy."""
        return self.policy.partition(" ")[0]

    @property
    def namespace(self) -> str:
        """Empty for a ClusterNetworkPolicy."""
        name = self.policy.partition(" ")[2]
        return name.partition("/")[0] if "/" in name else ""


def named(policy: Policy) -> str:
    """The name of a policy."""
    return f"{type(policy).__name__} {policy.key}"


def changes(before: Policies, after: Policies, at: float) -> Iterator[Change]:
    """What is different."""
    for name, policy in after.items():
        was = before.get(name)
        if was is None:
            yield Change(name, "created", at)
        elif was != policy:
            yield Change(name, _updated(was, policy), at)
    for name in before:
        if name not in after:
            yield Change(name, "deleted", at)


def _updated(was: Policy, policy: Policy) -> str:
    """Which parts of it."""
    if was.uid != policy.uid:
        return "replaced"
    parts = [_part(name, was, policy) for name in ("ingress", "egress") if getattr(was, name) != getattr(policy, name)]
    if was.pods != policy.pods or getattr(was, "namespaces", None) != getattr(policy, "namespaces", None):
        parts.append("whom it selects")
    if was.audit != policy.audit:
        parts.append("audited from now on" if policy.audit else "enforced from now on")
    if (getattr(was, "tier", 0), getattr(was, "priority", 0)) != (
        getattr(policy, "tier", 0),
        getattr(policy, "priority", 0),
    ):
        parts.append("its priority")
    return f"updated ({', '.join(parts)})" if parts else "updated"


def _part(name: str, was: Policy, policy: Policy) -> str:
    rules: tuple[Any, Any] = (getattr(was, name), getattr(policy, name))
    before, after = (0 if found is None else len(found) for found in rules)
    return f"{name}: {before} rules, then {after}" if before != after else f"{name}: other rules"
