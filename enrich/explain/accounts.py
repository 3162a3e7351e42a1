"""Accounts for every policy that selects the subject, rule by rule and tier by tier.

Uses the predicates of :func:`enrich.policy.decide.decide`, and never decides itself. The struct fields are the keys of
``enrich/schemas/explanation.schema.json``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from enrich.explain.mismatch import Mismatch, rule_mismatches, rule_text, selector_mismatch
from enrich.model import ClusterNetworkPolicy, Name, NetworkPolicy, Policy, Tier
from enrich.policy import selectors
from enrich.policy.decide import (
    Decision,
    Traffic,
    cluster_rules_in,
    is_audited,
    is_own_node,
    isolates,
    policies_in_tier,
    rules_in,
    selects,
)
from enrich.policy.matching import Direction, PolicyView, cluster_rule_matches, namespace_matches, rule_matches
from enrich.wire.batch import PolicyRef

ACCEPT: Final = "accept"
DENY: Final = "deny"
NODE: Final = "node"
"""NetworkPolicies isolate the subject, but a pod always reaches its own node."""
NONE: Final = "none"
"""No rule of a ClusterNetworkPolicy matches; or no NetworkPolicy isolates the subject."""

_NETWORK: Final = NetworkPolicy.__name__
_PolicyKey = tuple[str, str, str]
"""(kind, namespace, name)."""


class RuleAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule of a policy that selects the subject."""

    rule: int
    matched: bool
    text: str = ""
    """What the rule says, if it matches."""
    failed: tuple[Mismatch, ...] = ()
    """Why it does not match, otherwise."""
    action: str = ""
    """Accept, Deny or Pass, for a ClusterNetworkPolicy's rule."""
    name: str = ""
    shadowed_by: PolicyRef | None = None
    """For a ClusterNetworkPolicy's rule that matches: the earlier rule of its tier that decided before it."""


class PolicyAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy that selects the subject and applies to this direction."""

    kind: str
    namespace: str
    name: str
    decided: bool
    """Whether the decision names this policy."""
    rules: tuple[RuleAccount, ...] = ()
    priority: int | None = None
    audit: bool = False
    left_out: bool = False
    """Whether the policy takes no part in this verdict, because it is in audit mode."""


class TierAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """The Admin, NetworkPolicy or Baseline tier. They are asked in this order until one decides."""

    tier: str
    asked: bool
    """False if an earlier tier has decided; ``outcome`` is then what this tier would have said."""
    outcome: str
    """accept, deny, pass, node or none."""
    policies: tuple[PolicyAccount, ...] = ()


class NonSelectingPolicy(msgspec.Struct, frozen=True):
    """A policy that does not apply to the connection, and why."""

    kind: str
    namespace: str
    name: str
    text: str


def display_name(one: PolicyAccount | NonSelectingPolicy | PolicyRef) -> str:
    """Return the name of a policy as people read it: the namespace and the name, or else the kind and the name."""
    return f"{one.namespace}/{one.name}" if one.namespace else f"{one.kind} {one.name}"


def tier_accounts(view: PolicyView, traffic: Traffic, decision: Decision, *, audited: bool) -> tuple[TierAccount, ...]:
    """Return what each tier says of the traffic. If ``audited``, policies in audit mode count like all others."""
    decided = {(ref.kind, ref.namespace, ref.name) for ref in decision.policies}
    admin = _cluster_tier(view, Tier.ADMIN, traffic, decided, audited=audited)
    network = _network_tier(view, traffic, decided, audited=audited)
    baseline = _cluster_tier(view, Tier.BASELINE, traffic, decided, audited=audited)
    admin_decided = admin[0] in (ACCEPT, DENY)
    return (
        TierAccount("Admin", True, *admin),  # noqa: FBT003
        TierAccount(_NETWORK, not admin_decided, *network),
        TierAccount("Baseline", not admin_decided and network[0] == NONE, *baseline),
    )


def _network_tier(
    view: PolicyView, traffic: Traffic, decided: set[_PolicyKey], *, audited: bool
) -> tuple[str, tuple[PolicyAccount, ...]]:
    """Return the outcome of the NetworkPolicy tier, and an account of each policy that isolates the subject."""
    accounts = []
    for policy in view.policies.values():
        if isolates(policy, traffic.subject, traffic.direction):
            audit = is_audited(view, policy)
            account = PolicyAccount(
                _NETWORK, policy.namespace, policy.name, (_NETWORK, policy.namespace, policy.name) in decided,
                _network_rules(view, policy, traffic), audit=audit, left_out=audit and not audited,
            )  # fmt: skip
            accounts.append(account)
    counting = [account for account in accounts if not account.left_out]
    if not counting:
        outcome = NONE
    elif is_own_node(view, traffic.subject, traffic.peer):
        outcome = NODE
    else:
        outcome = ACCEPT if any(rule.matched for account in counting for rule in account.rules) else DENY
    return outcome, tuple(sorted(accounts, key=lambda account: (not account.decided, account.name)))


def _network_rules(view: PolicyView, policy: NetworkPolicy, traffic: Traffic) -> tuple[RuleAccount, ...]:
    accounts = []
    connection = (traffic.peer, traffic.destination, traffic.protocol, traffic.port)
    for index, rule in enumerate(rules_in(policy, traffic.direction) or ()):
        matched = rule_matches(view, policy.namespace, rule, *connection)
        accounts.append(
            RuleAccount(
                index,
                matched,
                rule_text(view, policy.namespace, rule, traffic) if matched else "",
                () if matched else rule_mismatches(view, policy.namespace, rule, traffic),
            )
        )
    return tuple(accounts)


def _cluster_tier(
    view: PolicyView, tier: Tier, traffic: Traffic, decided: set[_PolicyKey], *, audited: bool
) -> tuple[str, tuple[PolicyAccount, ...]]:
    """Return the outcome of a tier of ClusterNetworkPolicies, and an account of each that selects the subject."""
    found = []
    deciding: PolicyRef | None = None
    outcome = NONE
    for policy in policies_in_tier(view, tier):
        if not selects(view, policy, traffic.subject) or not cluster_rules_in(policy, traffic.direction):
            continue
        counts, kind = audited or not policy.audit, type(policy).__name__
        accounts = _cluster_rules(view, policy, traffic, deciding if counts else None, counts=counts)
        first = next((account for account in accounts if account.matched), None)
        if counts and deciding is None and first is not None:
            deciding = PolicyRef(kind, "", policy.name, first.rule)
            outcome = first.action.lower()
        found.append(
            PolicyAccount(
                kind,
                "",
                policy.name,
                (kind, "", policy.name) in decided,
                accounts,
                policy.priority,
                audit=policy.audit,
                left_out=not counts,
            )
        )
    return outcome, tuple(found)


def _cluster_rules(
    view: PolicyView, policy: ClusterNetworkPolicy, traffic: Traffic, deciding: PolicyRef | None, *, counts: bool
) -> tuple[RuleAccount, ...]:
    """Account for the rules of one policy. ``deciding`` is the rule of an earlier policy that decided, if one did."""
    accounts = []
    connection = (traffic.peer, traffic.destination, traffic.protocol, traffic.port)
    for index, rule in enumerate(cluster_rules_in(policy, traffic.direction)):
        matched = cluster_rule_matches(view, rule, *connection)
        accounts.append(
            RuleAccount(
                index,
                matched,
                rule_text(view, "", rule, traffic) if matched else "",
                () if matched else rule_mismatches(view, "", rule, traffic),
                rule.action.value,
                rule.name,
                deciding if matched else None,
            )
        )
        if matched and counts and deciding is None:
            deciding = PolicyRef(type(policy).__name__, "", policy.name, index)
    return tuple(accounts)


# --- policies that do not apply


def non_selecting_policies(view: PolicyView, traffic: Traffic) -> tuple[NonSelectingPolicy, ...]:
    """Return the ClusterNetworkPolicies, and the policies of the subject's namespace, that do not apply, and why.

    This is where a mistyped label in a selector shows.
    """
    subject, direction = traffic.subject, traffic.direction
    found = []
    for policy in sorted(view.policies.values(), key=lambda policy: policy.name):
        if policy.namespace == subject.namespace and not isolates(policy, subject, direction):
            if selectors.matches(policy.pods, subject.labels):
                text = _other_direction_only(direction)
            else:
                text = f"podSelector {selector_mismatch(policy.pods, subject.labels, 'the pod')}"
            found.append(_non_selecting(policy, text))
    for cluster_policy in (*policies_in_tier(view, Tier.ADMIN), *policies_in_tier(view, Tier.BASELINE)):
        if not selects(view, cluster_policy, subject):
            found.append(_non_selecting(cluster_policy, f"subject {_subject_mismatch(view, cluster_policy, traffic)}"))
        elif not cluster_rules_in(cluster_policy, direction):
            found.append(_non_selecting(cluster_policy, _other_direction_only(direction)))
    return tuple(found)


def _non_selecting(policy: Policy, text: str) -> NonSelectingPolicy:
    return NonSelectingPolicy(type(policy).__name__, policy.key.namespace, policy.name, text)


def _other_direction_only(direction: Direction) -> str:
    return f"applies to {'ingress' if direction is Direction.EGRESS else 'egress'} only"


def _subject_mismatch(view: PolicyView, policy: ClusterNetworkPolicy, traffic: Traffic) -> str:
    name = traffic.subject.namespace
    namespace = view.namespaces.get(Name("", name))
    if namespace is None:
        return f"selects namespaces, but namespace {name} is not known"
    if not namespace_matches(view, policy.namespaces, name):
        return selector_mismatch(policy.namespaces, namespace.labels, f"namespace {name}")
    return selector_mismatch(policy.pods, traffic.subject.labels, "the pod")
