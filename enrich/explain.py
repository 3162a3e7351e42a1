"""Why a connection is allowed or denied: the engine's decision at each end, and an account of every policy asked.

The decision is :func:`enrich.policy.decide`'s own, never made again here; the accounts beside it use the same
predicates, rule by rule. ``enrich/schemas/explanation.schema.json`` describes the shape as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from enrich import selectors
from enrich.model import NetworkPolicy, Pod, Protocol
from enrich.policy import Decision, Direction, Endpoint, PolicyView, decide, isolates, rule_matches
from enrich.records import PolicyRef, Reason
from enrich.terms import Miss, matching_peers, rule_misses, rule_words, selector_miss

KIND: Final = "NetworkPolicy"


class RuleAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule of a policy that selects the subject."""

    rule: int
    matched: bool
    text: str = ""
    """What the rule says, of one that matches."""
    failed: tuple[Miss, ...] = ()
    """The terms that failed, of one that does not."""


class PolicyAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy that selects the subject in this direction."""

    kind: str
    namespace: str
    name: str
    decided: bool
    """Whether the decision is by this policy: one of those that allow, or one of those that isolate."""
    rules: tuple[RuleAccount, ...] = ()


class Unselecting(msgspec.Struct, frozen=True):
    """A policy of the subject's namespace that has no say here, and why."""

    kind: str
    namespace: str
    name: str
    text: str


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What the policies of one end say."""

    direction: str
    """egress of the source, ingress of the destination."""
    namespace: str
    pod: str
    node: str
    verdict: str
    """allow, deny or audit, as in a flow record."""
    reason: str
    """As in a flow record."""
    text: str
    """The verdict and its reason in words."""
    policies: tuple[PolicyRef, ...]
    """Those that decided, as in a flow record: all that allow, or all that isolate."""
    accounts: tuple[PolicyAccount, ...]
    unselecting: tuple[Unselecting, ...]


class Connection(msgspec.Struct, frozen=True):
    """A new connection. ``protocol`` None: ICMP, which has no port."""

    source: Endpoint
    destination: Endpoint
    protocol: Protocol | None
    port: int


def sides(view: PolicyView, connection: Connection) -> tuple[Side, ...]:
    """What each end says that is a pod with policies of its own: egress of the source, ingress of the destination."""
    found = []
    if connection.source.pod is not None:
        found.append(_side(view, connection, connection.source.pod, Direction.EGRESS))
    if connection.destination.pod is not None:
        found.append(_side(view, connection, connection.destination.pod, Direction.INGRESS))
    return tuple(found)


def _side(view: PolicyView, connection: Connection, subject: Pod, direction: Direction) -> Side:
    peer = connection.destination if direction is Direction.EGRESS else connection.source
    decision = decide(view, subject, direction, peer, connection.protocol, connection.port)
    asked = decision.reason not in (Reason.SELF, Reason.NODE)
    accounts = _accounts(view, connection, subject, direction, decision) if asked else ()
    return Side(
        direction=direction.name.lower(),
        namespace=subject.namespace,
        pod=subject.name,
        node=subject.node,
        verdict="allow" if decision.allowed else "deny",
        reason=decision.reason.name.lower(),
        text=_WORDS[decision.reason](subject, direction, decision),
        policies=decision.policies,
        accounts=accounts,
        unselecting=_unselecting(view, subject, direction) if asked else (),
    )


def _accounts(
    view: PolicyView, connection: Connection, subject: Pod, direction: Direction, decision: Decision
) -> tuple[PolicyAccount, ...]:
    """Every policy that isolates the subject in this direction, those that decided first."""
    decided = {(ref.namespace, ref.name) for ref in decision.policies}
    found = [
        PolicyAccount(
            KIND,
            policy.namespace,
            policy.name,
            (policy.namespace, policy.name) in decided,
            _rules(view, connection, policy, direction),
        )
        for policy in view.policies.values()
        if isolates(policy, subject, direction)
    ]
    return tuple(sorted(found, key=lambda one: (not one.decided, one.name)))


def _rules(
    view: PolicyView, connection: Connection, policy: NetworkPolicy, direction: Direction
) -> tuple[RuleAccount, ...]:
    peer = connection.destination if direction is Direction.EGRESS else connection.source
    destination, namespace = connection.destination.pod, policy.namespace
    accounts = []
    for index, rule in enumerate((policy.egress if direction is Direction.EGRESS else policy.ingress) or ()):
        question = (peer, destination, connection.protocol, connection.port)
        if rule_matches(view, namespace, rule, *question):
            hits = matching_peers(view, namespace, rule, peer)
            accounts.append(RuleAccount(index, True, rule_words(rule, direction, hits, namespace)))  # noqa: FBT003
        else:
            failed = rule_misses(
                view, namespace, rule, direction, (peer, destination), connection.protocol, connection.port
            )
            accounts.append(RuleAccount(index, False, failed=failed))  # noqa: FBT003
    return tuple(accounts)


def _unselecting(view: PolicyView, subject: Pod, direction: Direction) -> tuple[Unselecting, ...]:
    """The policies of the subject's namespace that do not isolate it here: where a mistyped label shows."""
    found = []
    for policy in sorted(view.policies.values(), key=lambda policy: policy.name):
        if policy.namespace != subject.namespace or isolates(policy, subject, direction):
            continue
        if selectors.matches(policy.pods, subject.labels):
            other = "ingress" if direction is Direction.EGRESS else "egress"
            text = f"is about {other} only"
        else:
            text = f"podSelector {selector_miss(policy.pods, subject.labels, 'the pod')}"
        found.append(Unselecting(KIND, policy.namespace, policy.name, text))
    return tuple(found)


def _allowed_by_policy(_subject: Pod, _direction: Direction, decision: Decision) -> str:
    return f"allowed by {_names(decision)}"


def _denied_by_default(_subject: Pod, _direction: Direction, decision: Decision) -> str:
    count = len(decision.policies)
    return (
        f"denied by default: {count} {'policies isolate' if count > 1 else 'policy isolates'} it, and no rule matches"
    )


def _no_policy(_subject: Pod, direction: Direction, _decision: Decision) -> str:
    return f"allowed: no policy isolates it for {direction.name.lower()}"


def _own_node(subject: Pod, direction: Direction, _decision: Decision) -> str:
    if direction is Direction.EGRESS:
        return f"allowed: a pod always reaches its own node, {subject.node}"
    return (
        f"allowed: the pod's own node, {subject.node}, always reaches it (what a NodePort masquerades to the node's "
        "address is judged by its true source)"
    )


def _itself(_subject: Pod, _direction: Direction, _decision: Decision) -> str:
    return "allowed: a pod always reaches itself"


def _names(decision: Decision) -> str:
    rules: dict[str, list[str]] = {}
    for ref in decision.policies:
        rules.setdefault(f"{ref.namespace}/{ref.name}", []).append(str(ref.rule))
    return ", ".join(f"{name} (rule{'s' * (len(found) > 1)} {', '.join(found)})" for name, found in rules.items())


_WORDS: Final[dict[Reason, Callable[[Pod, Direction, Decision], str]]] = {
    Reason.POLICY: _allowed_by_policy,
    Reason.DEFAULT_DENY: _denied_by_default,
    Reason.NO_POLICY: _no_policy,
    Reason.NODE: _own_node,
    Reason.SELF: _itself,
}
