"""Why one end of a connection lets it be or not: the engine's decision, in words, with an account of every policy.

The decision is :func:`enrich.policy.decide.decide`'s own and never made again here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from enrich.explain.accounts import NonSelectingPolicy, TierAccount, tier_accounts, unselecting
from enrich.model import Name, Protocol
from enrich.policy.decide import Decision, Traffic, decide, is_audited
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import PolicyRef, Reason, Verdict


class EndDecision(msgspec.Struct, frozen=True, kw_only=True):
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
    """Those that decided, as in a flow record: all that allow, the one that denies, or all that isolate."""
    tiers: tuple[TierAccount, ...]
    """In the order in which they are asked; none where no policy is asked."""
    unselecting: tuple[NonSelectingPolicy, ...]
    """Policies of the pod's namespace and of the cluster that are not about this."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A new connection. ``protocol`` None: ICMP, which has no port."""

    source: Endpoint
    destination: Endpoint
    protocol: Protocol | None
    port: int


def end_decisions(view: PolicyView, connection: Connection) -> tuple[EndDecision, ...]:
    """What each end says that is a pod with policies of its own: egress of the source, ingress of the destination."""
    source, destination = connection.source, connection.destination
    rest = (connection.protocol, connection.port)
    found = []
    if source.pod is not None:
        found.append(_side(view, Traffic(source.pod, Direction.EGRESS, destination, *rest)))
    if destination.pod is not None:
        found.append(_side(view, Traffic(destination.pod, Direction.INGRESS, source, *rest)))
    return tuple(found)


def _side(view: PolicyView, traffic: Traffic) -> EndDecision:
    decision = _decide(view, traffic)
    audited = decision.verdict is Verdict.AUDIT
    ingress_of_node = decision.reason is Reason.NODE and traffic.direction is Direction.INGRESS
    asked = decision.reason is not Reason.SELF and not ingress_of_node
    return EndDecision(
        direction=traffic.direction.name.lower(),
        namespace=traffic.subject.namespace,
        pod=traffic.subject.name,
        node=traffic.subject.node,
        verdict=decision.verdict.name.lower(),
        reason=decision.reason.name.lower(),
        text=_audited(view, traffic, decision) if audited else _words(view, traffic, decision),
        policies=decision.policies,
        tiers=tier_accounts(view, traffic, decision, audited=audited) if asked else (),
        unselecting=unselecting(view, traffic) if asked else (),
    )


def _decide(view: PolicyView, traffic: Traffic) -> Decision:
    return decide(view, traffic.subject, traffic.direction, traffic.peer, traffic.protocol, traffic.port)


def without_audited(view: PolicyView) -> PolicyView:
    """The same cluster without the policies that are audited."""
    return replace(
        view,
        policies={name: policy for name, policy in view.policies.items() if not is_audited(view, policy)},
        cluster_policies={name: policy for name, policy in view.cluster_policies.items() if not policy.audit},
    )


def _words(view: PolicyView, traffic: Traffic, decision: Decision) -> str:
    return _WORDS[decision.reason](view, traffic, decision)


def _audited(view: PolicyView, traffic: Traffic, decision: Decision) -> str:
    """Enforcing would give the decision's reason; what passes it today is what the rest says."""
    today = _decide(without_audited(view), traffic)
    return f"passes, audited: would be {_words(view, traffic, decision)}. As it is, {_words(view, traffic, today)}"


def _by_policy(view: PolicyView, _traffic: Traffic, decision: Decision) -> str:
    return f"{'denied' if decision.reason is Reason.EXPLICIT_DENY else 'allowed'} by {_names(view, decision)}"


def _by_default(_view: PolicyView, _traffic: Traffic, decision: Decision) -> str:
    count = len(decision.policies)
    return (
        f"denied by default: {count} {'policies isolate' if count > 1 else 'policy isolates'} it, and no rule matches"
    )


def _no_policy(_view: PolicyView, traffic: Traffic, _decision: Decision) -> str:
    return f"allowed: no policy isolates it for {traffic.direction.name.lower()}"


def _own_node(_view: PolicyView, traffic: Traffic, _decision: Decision) -> str:
    if traffic.direction is Direction.EGRESS:
        return f"allowed: a pod always reaches its own node, {traffic.subject.node}"
    return (
        f"allowed: the pod's own node, {traffic.subject.node}, always reaches it (what a NodePort masquerades to the "
        "node's address is judged by its true source)"
    )


def _itself(_view: PolicyView, _traffic: Traffic, _decision: Decision) -> str:
    return "allowed: a pod always reaches itself"


def _names(view: PolicyView, decision: Decision) -> str:
    rules: dict[str, list[str]] = {}
    for ref in decision.policies:
        cluster_policy = view.cluster_policies.get(Name("", ref.name)) if not ref.namespace else None
        where = f"{cluster_policy.tier.name.title()} tier, " if cluster_policy else ""
        name = f"{ref.kind} {ref.name} ({where}" if cluster_policy else f"{ref.namespace}/{ref.name} ("
        rules.setdefault(name, []).append(str(ref.rule))
    return ", ".join(f"{name}rule{'s' * (len(found) > 1)} {', '.join(found)})" for name, found in rules.items())


_WORDS: Final[dict[Reason, Callable[[PolicyView, Traffic, Decision], str]]] = {
    Reason.POLICY: _by_policy,
    Reason.EXPLICIT_DENY: _by_policy,
    Reason.DEFAULT_DENY: _by_default,
    Reason.NO_POLICY: _no_policy,
    Reason.NODE: _own_node,
    Reason.SELF: _itself,
}
