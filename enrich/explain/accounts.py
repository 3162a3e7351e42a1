"""The accounts of an explanation: every policy that selects the subject, rule by rule, in the order of the tiers.

Made with the predicates by which :func:`enrich.policy.decide.decide` decides, and never in its place: a test compares
the two
on random clusters.
"""

from __future__ import annotations

from typing import Final

import msgspec

from enrich.explain.mismatch import Mismatch, rule_mismatches, rule_text, selector_mismatch
from enrich.model import ClusterNetworkPolicy, Name, NetworkPolicy, Tier
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
"""NetworkPolicy isolates the subject, and its own node is always allowed."""
NONE: Final = "none"
"""No rule of a ClusterNetworkPolicy matches; no NetworkPolicy isolates."""

_CLUSTER: Final = "ClusterNetworkPolicy"
_NETWORK: Final = "NetworkPolicy"


class RuleAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule of a policy that selects the subject."""

    rule: int
    matched: bool
    text: str = ""
    """What the rule says, of one that matches."""
    failed: tuple[Mismatch, ...] = ()
    """The terms that failed, of one that does not."""
    action: str = ""
    """Of a ClusterNetworkPolicy's rule: Accept, Deny or Pass."""
    name: str = ""
    shadowed_by: PolicyRef | None = None
    """Of a ClusterNetworkPolicy's rule that matches: the earlier one of its tier that took the traffic."""


class PolicyAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy that selects the subject and is about this direction."""

    kind: str
    namespace: str
    name: str
    decided: bool
    """Whether the decision is by this policy: one that allows, the one that denies, or one that isolates."""
    rules: tuple[RuleAccount, ...] = ()
    priority: int | None = None
    audit: bool = False
    left_out: bool = False
    """It is audited, and takes no part in this verdict."""


class TierAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of Admin, NetworkPolicy and Baseline, which are asked in this order until one decides."""

    tier: str
    asked: bool
    """False: an earlier one has decided; the outcome is what this one would have said."""
    outcome: str
    """accept, deny, pass, node or none."""
    policies: tuple[PolicyAccount, ...] = ()


class NonSelectingPolicy(msgspec.Struct, frozen=True):
    """A policy that has no say here, and why."""

    kind: str
    namespace: str
    name: str
    text: str


def tier_accounts(view: PolicyView, traffic: Traffic, decision: Decision, *, audited: bool) -> tuple[TierAccount, ...]:
    """What each tier says of the traffic; with ``audited`` the audited policies count as well."""
    decided = {(ref.kind, ref.namespace, ref.name) for ref in decision.policies}
    admin = _cluster_tier(view, Tier.ADMIN, traffic, decided, audited=audited)
    network = _network_tier(view, traffic, decided, audited=audited)
    baseline = _cluster_tier(view, Tier.BASELINE, traffic, decided, audited=audited)
    settled = admin[0] in (ACCEPT, DENY)
    return (
        TierAccount("Admin", True, *admin),  # noqa: FBT003
        TierAccount(_NETWORK, not settled, *network),
        TierAccount("Baseline", not settled and network[0] == NONE, *baseline),
    )


def _network_tier(
    view: PolicyView, traffic: Traffic, decided: set[tuple[str, str, str]], *, audited: bool
) -> tuple[str, tuple[PolicyAccount, ...]]:
    found = []
    for policy in view.policies.values():
        if isolates(policy, traffic.subject, traffic.direction):
            audit = is_audited(view, policy)
            account = PolicyAccount(
                _NETWORK, policy.namespace, policy.name, (_NETWORK, policy.namespace, policy.name) in decided,
                _network_rules(view, policy, traffic), audit=audit, left_out=audit and not audited,
            )  # fmt: skip
            found.append(account)
    counting = [account for account in found if not account.left_out]
    if not counting:
        outcome = NONE
    elif is_own_node(view, traffic.subject, traffic.peer):
        outcome = NODE
    else:
        outcome = ACCEPT if any(rule.matched for account in counting for rule in account.rules) else DENY
    return outcome, tuple(sorted(found, key=lambda one: (not one.decided, one.name)))


def _network_rules(view: PolicyView, policy: NetworkPolicy, traffic: Traffic) -> tuple[RuleAccount, ...]:
    accounts = []
    question = (traffic.peer, traffic.destination, traffic.protocol, traffic.port)
    for index, rule in enumerate(rules_in(policy, traffic.direction) or ()):
        if rule_matches(view, policy.namespace, rule, *question):
            account = RuleAccount(index, True, rule_text(view, policy.namespace, rule, traffic))  # noqa: FBT003
        else:
            account = RuleAccount(index, False, failed=rule_mismatches(view, policy.namespace, rule, traffic))  # noqa: FBT003
        accounts.append(account)
    return tuple(accounts)


def _cluster_tier(
    view: PolicyView, tier: Tier, traffic: Traffic, decided: set[tuple[str, str, str]], *, audited: bool
) -> tuple[str, tuple[PolicyAccount, ...]]:
    found = []
    taken: PolicyRef | None = None
    outcome = NONE
    for policy in policies_in_tier(view, tier):
        if not selects(view, policy, traffic.subject) or not cluster_rules_in(policy, traffic.direction):
            continue
        counts = audited or not policy.audit
        accounts = _cluster_rules(view, policy, traffic, taken if counts else None, counts=counts)
        first = next((one for one in accounts if one.matched), None)
        if counts and taken is None and first is not None:
            taken = PolicyRef(_CLUSTER, "", policy.name, first.rule)
            outcome = first.action.lower()
        found.append(
            PolicyAccount(
                _CLUSTER,
                "",
                policy.name,
                (_CLUSTER, "", policy.name) in decided,
                accounts,
                policy.priority,
                audit=policy.audit,
                left_out=not counts,
            )
        )
    return outcome, tuple(found)


def _cluster_rules(
    view: PolicyView, policy: ClusterNetworkPolicy, traffic: Traffic, taken: PolicyRef | None, *, counts: bool
) -> tuple[RuleAccount, ...]:
    accounts = []
    question = (traffic.peer, traffic.destination, traffic.protocol, traffic.port)
    for index, rule in enumerate(cluster_rules_in(policy, traffic.direction)):
        matched = cluster_rule_matches(view, rule, *question)
        accounts.append(
            RuleAccount(
                index,
                matched,
                rule_text(view, "", rule, traffic) if matched else "",
                () if matched else rule_mismatches(view, "", rule, traffic),
                rule.action.value,
                rule.name,
                taken if matched else None,
            )
        )
        if matched and counts and taken is None:
            taken = PolicyRef(_CLUSTER, "", policy.name, index)
    return tuple(accounts)


# --- those that have no say


def unselecting(view: PolicyView, traffic: Traffic) -> tuple[NonSelectingPolicy, ...]:
    """Policies of the subject's namespace, and of the cluster, that are not about it: where a mistyped label shows."""
    subject, found = traffic.subject, []
    for policy in sorted(view.policies.values(), key=lambda policy: policy.name):
        if policy.namespace == subject.namespace and not isolates(policy, subject, traffic.direction):
            if selectors.matches(policy.pods, subject.labels):
                text = _other_only(traffic.direction)
            else:
                text = f"podSelector {selector_mismatch(policy.pods, subject.labels, 'the pod')}"
            found.append(NonSelectingPolicy(_NETWORK, policy.namespace, policy.name, text))
    for cluster_policy in (*policies_in_tier(view, Tier.ADMIN), *policies_in_tier(view, Tier.BASELINE)):
        if not selects(view, cluster_policy, subject):
            text = f"subject {_subject_miss(view, cluster_policy, traffic)}"
        elif not cluster_rules_in(cluster_policy, traffic.direction):
            text = _other_only(traffic.direction)
        else:
            continue
        found.append(NonSelectingPolicy(_CLUSTER, "", cluster_policy.name, text))
    return tuple(found)


def _other_only(direction: Direction) -> str:
    return f"is about {'ingress' if direction is Direction.EGRESS else 'egress'} only"


def _subject_miss(view: PolicyView, policy: ClusterNetworkPolicy, traffic: Traffic) -> str:
    namespace = traffic.subject.namespace
    home = view.namespaces.get(Name("", namespace))
    if home is None:
        return f"selects namespaces, and {namespace} is not known"
    if not namespace_matches(view, policy.namespaces, namespace):
        return selector_mismatch(policy.namespaces, home.labels, f"namespace {namespace}")
    return selector_mismatch(policy.pods, traffic.subject.labels, "the pod")
