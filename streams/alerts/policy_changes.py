"""Changes of policies: the difference between two states of the cluster, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from enrich.model import Policy
from enrich.wire.bounds import Seconds

MAX_BY: Final = 200
"""Characters of a manager's name that are kept: whoever may change a policy chooses it."""
Policies = Mapping[str, Policy]
"""Policies by :func:`policy_name`."""


class PolicyChange(msgspec.Struct, frozen=True):
    """One policy and what happened to it."""

    policy: str
    """``KIND NAMESPACE/NAME`` or ``KIND NAME``, as :func:`policy_name` returns it."""
    what: str
    """``created``, ``deleted``, ``replaced`` or ``updated (…)`` with the parts that changed."""
    at: Seconds
    """When this worker observed it, in seconds of the wall clock."""
    by: str = ""
    """Who made it, as the API server's managedFields name the manager; empty if it is not known, as of a deletion."""

    @property
    def kind(self) -> str:
        """The kind of the policy."""
        return self.policy.partition(" ")[0]

    @property
    def namespace(self) -> str:
        """The policy's namespace; empty for all kinds but NetworkPolicy."""
        name = self.policy.partition(" ")[2]
        return name.partition("/")[0] if "/" in name else ""


def policy_name(policy: Policy) -> str:
    """Return ``KIND NAMESPACE/NAME``, or ``KIND NAME`` for a policy without a namespace."""
    return f"{type(policy).__name__} {policy.key}"


def diff_policies(before: Policies, after: Policies, at: float) -> Iterator[PolicyChange]:
    """Yield a change for each policy that differs between the two states."""
    for name, policy in after.items():
        old = before.get(name)
        if old is None:
            yield PolicyChange(name, "created", at)
        elif dataclasses.replace(old, logging=policy.logging) != policy:  # what is logged denies nothing
            yield PolicyChange(name, _updated(old, policy), at)
    for name in before:
        if name not in after:
            yield PolicyChange(name, "deleted", at)


def _updated(old: Policy, new: Policy) -> str:
    if old.uid != new.uid:
        return "replaced"
    parts = [_part(name, old, new) for name in ("ingress", "egress") if getattr(old, name) != getattr(new, name)]
    if old.pods != new.pods or getattr(old, "namespaces", None) != getattr(new, "namespaces", None):
        parts.append("the pods it selects")
    if old.audit != new.audit:
        parts.append("audited from now on" if new.audit else "enforced from now on")
    if (getattr(old, "tier", 0), getattr(old, "priority", 0)) != (
        getattr(new, "tier", 0),
        getattr(new, "priority", 0),
    ):
        parts.append("its priority")
    return f"updated ({', '.join(parts)})" if parts else "updated"


def _part(name: str, old: Policy, new: Policy) -> str:
    rules: tuple[Any, Any] = (getattr(old, name), getattr(new, name))
    before, after = (0 if found is None else len(found) for found in rules)
    return f"{name}: {before} rules, then {after}" if before != after else f"{name}: other rules"
