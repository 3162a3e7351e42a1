"""Explains the decision at one end of a connection: the verdict in words, with an account of every policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from enrich.explain.accounts import NonSelectingPolicy, TierAccount, non_selecting_policies, tier_accounts
from enrich.model import Protocol
from enrich.policy.decide import Decision, Traffic, decide, is_audited
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import PolicyRef, Reason, Verdict


class EndDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What the policies of one end decide."""

    direction: str
    """egress for the source, ingress for the destination."""
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
    """The policies that decided, as in a flow record: all that allow, the one that denies, or all that isolate."""
    tiers: tuple[TierAccount, ...]
    """In the order in which they are asked; empty where no policy is asked."""
    unselecting: tuple[NonSelectingPolicy, ...]
    """Policies of the pod's namespace, and ClusterNetworkPolicies, that do not apply."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A new connection. ``protocol`` None means ICMP, which has no ports."""

    source: Endpoint
    destination: Endpoint
    protocol: Protocol | None
    port: int


def end_decisions(view: PolicyView, connection: Connection) -> tuple[EndDecision, ...]:
    """Return the decision at each end that is a pod: egress of the source, then ingress of the destination."""
    source, destination = connection.source, connection.destination
    protocol_and_port = (connection.protocol, connection.port)
    found = []
    if source.pod is not None:
        found.append(end_decision(view, Traffic(source.pod, Direction.EGRESS, destination, *protocol_and_port)))
    if destination.pod is not None:
        found.append(end_decision(view, Traffic(destination.pod, Direction.INGRESS, source, *protocol_and_port)))
    return tuple(found)


def end_decision(view: PolicyView, traffic: Traffic) -> EndDecision:
    """Return the decision of the policies of one end, with an account of each."""
    decision = _decide(view, traffic)
    audited = decision.verdict is Verdict.AUDIT
    from_own_node = decision.reason is Reason.NODE and traffic.direction is Direction.INGRESS
    policies_asked = decision.reason is not Reason.SELF and not from_own_node
    return EndDecision(
        direction=traffic.direction.name.lower(),
        namespace=traffic.subject.namespace,
        pod=traffic.subject.name,
        node=traffic.subject.node,
        verdict=decision.verdict.name.lower(),
        reason=decision.reason.name.lower(),
        text=_audit_text(view, traffic, decision) if audited else _decision_text(view, traffic, decision),
        policies=decision.policies,
        tiers=tier_accounts(view, traffic, decision, audited=audited) if policies_asked else (),
        unselecting=non_selecting_policies(view, traffic) if policies_asked else (),
    )


def _decide(view: PolicyView, traffic: Traffic) -> Decision:
    return decide(view, traffic.subject, traffic.direction, traffic.peer, traffic.protocol, traffic.port)


def without_audited(view: PolicyView) -> PolicyView:
    """Return the same cluster without the policies in audit mode."""
    return replace(
        view,
        policies={name: policy for name, policy in view.policies.items() if not is_audited(view, policy)},
        cluster_policies={name: policy for name, policy in view.cluster_policies.items() if not policy.audit},
    )


# --- decisions in words


def _decision_text(view: PolicyView, traffic: Traffic, decision: Decision) -> str:
    return _TEXTS[decision.reason](view, traffic, decision)


def _audit_text(view: PolicyView, traffic: Traffic, decision: Decision) -> str:
    """Return what enforcement would bring, which is the audit's reason, and why the connection passes today."""
    enforced = _decision_text(view, traffic, decision)
    today = _decision_text(view, traffic, _decide(without_audited(view), traffic))
    return f"passes in audit mode. Enforced, it would be {enforced}. Today it is {today}"


def _policy_text(view: PolicyView, _traffic: Traffic, decision: Decision) -> str:
    return f"{'denied' if decision.reason is Reason.EXPLICIT_DENY else 'allowed'} by {_policy_names(view, decision)}"


def _default_deny_text(_view: PolicyView, _traffic: Traffic, decision: Decision) -> str:
    count = len(decision.policies)
    if count == 1:
        return "denied by default: 1 policy isolates the pod, and none of its rules matches"
    return f"denied by default: {count} policies isolate the pod, and none of their rules matches"


def _no_policy_text(_view: PolicyView, traffic: Traffic, _decision: Decision) -> str:
    return f"allowed: no policy isolates the pod for {traffic.direction.name.lower()}"


def _own_node_text(_view: PolicyView, traffic: Traffic, _decision: Decision) -> str:
    if traffic.direction is Direction.EGRESS:
        return f"allowed: a pod always reaches its own node, {traffic.subject.node}"
    return (
        f"allowed: a pod's own node, {traffic.subject.node}, always reaches it (a NodePort connection that is "
        "masqueraded to the node's address is judged by its original source)"
    )


def _self_text(_view: PolicyView, _traffic: Traffic, _decision: Decision) -> str:
    return "allowed: a pod always reaches itself"


def _policy_names(view: PolicyView, decision: Decision) -> str:
    rules: dict[str, list[str]] = {}
    for ref in decision.policies:
        named = (policy for policy in view.cluster_policies.values() if policy.name == ref.name)
        cluster_policy = next((policy for policy in named if type(policy).__name__ == ref.kind), None)
        tier = f"{cluster_policy.tier.name.title()} tier, " if cluster_policy else ""
        name = f"{ref.kind} {ref.name} ({tier}" if cluster_policy else f"{ref.namespace}/{ref.name} ("
        rules.setdefault(name, []).append(str(ref.rule))
    return ", ".join(f"{name}rule{'s' * (len(found) > 1)} {', '.join(found)})" for name, found in rules.items())


_TEXTS: Final[dict[Reason, Callable[[PolicyView, Traffic, Decision], str]]] = {
    Reason.POLICY: _policy_text,
    Reason.EXPLICIT_DENY: _policy_text,
    Reason.DEFAULT_DENY: _default_deny_text,
    Reason.NO_POLICY: _no_policy_text,
    Reason.NODE: _own_node_text,
    Reason.SELF: _self_text,
}
