"""Decides whether a pod's policies allow a connection: the reference that the kernel's maps are compared with.

The tiers are asked in order, "Admin tier, NetworkPolicy tier, Baseline tier" (``policy.networking.k8s.io/v1alpha2``,
whose text is in double quotes here, beside that of ``networking.k8s.io/v1``):

1. A pod always reaches itself, and its own node always reaches it.
2. Admin tier: the ClusterNetworkPolicies and AdminNetworkPolicies that select the subject, by priority; their rules in
   the order in which they are written. The first rule that matches decides: Accept, Deny, or Pass, which goes on to the
   next tier.
3. NetworkPolicy tier: if any NetworkPolicy isolates the subject in this direction, the tier decides. The connection is
   allowed if any rule of any of them matches, and denied by default otherwise. A pod still reaches its own node.
4. Baseline tier, only if no NetworkPolicy isolates the subject: as the admin tier. The BaselineAdminNetworkPolicy is
   the last one.
5. What no tier decides is allowed.

A policy in audit mode takes no part in the verdict. If the other policies allow what all policies together would deny,
the verdict is ``audit``, with the reason and the policies of that denial.

Clarity comes before speed here; :mod:`probe.policy.compiler` compiles the same meaning to map entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from enrich.model import (
    TIERED_KINDS,
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    Name,
    NetworkPolicy,
    Pod,
    Protocol,
    Rule,
    Tier,
)
from enrich.policy import selectors
from enrich.policy.matching import (
    Direction,
    Endpoint,
    PolicyView,
    cluster_rule_matches,
    namespace_matches,
    rule_matches,
)
from enrich.wire.batch import PolicyRef, Reason, Verdict


@dataclass(frozen=True, slots=True)
class Traffic:
    """A new connection, as the policies of one of its ends see it.

    ``protocol`` None means a protocol that no policy can name, such as ICMP; only rules without ports match it.
    """

    subject: Pod
    direction: Direction
    peer: Endpoint
    protocol: Protocol | None
    port: int
    """The port that is connected to, at whichever end."""

    @property
    def destination(self) -> Pod | None:
        """The pod whose container ports a port name means."""
        return self.peer.pod if self.direction is Direction.EGRESS else self.subject


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policies of one end decide.

    ``policies`` are the reason: all rules that allow, the one rule that denies, or all policies that isolate. For an
    ``audit``, reason and policies are those of the denial that enforcement would bring.
    """

    verdict: Verdict
    reason: Reason
    policies: tuple[PolicyRef, ...] = field(default=())

    @property
    def allowed(self) -> bool:
        """Whether the connection passes; an audited one does."""
        return self.verdict is not Verdict.DENY


def is_connection_allowed(
    view: PolicyView, source: Endpoint, destination: Endpoint, protocol: Protocol, port: int
) -> bool:
    """Return whether both ends allow a new connection: egress of the source and ingress of the destination."""
    decisions = (
        decide(view, source.pod, Direction.EGRESS, destination, protocol, port) if source.pod else None,
        decide(view, destination.pod, Direction.INGRESS, source, protocol, port) if destination.pod else None,
    )
    return all(decision is None or decision.allowed for decision in decisions)


def decide(
    view: PolicyView, subject: Pod, direction: Direction, peer: Endpoint, protocol: Protocol | None, port: int
) -> Decision:
    """Decide whether the subject's policies allow a connection with the peer, on the destination's port."""
    if peer.ip in subject.ips:
        return Decision(Verdict.ALLOW, Reason.SELF)
    own_node = is_own_node(view, subject, peer)
    if own_node and direction is Direction.INGRESS:
        # No peer of an ingress rule can be a node, and the node always reaches its pods (see below).
        return Decision(Verdict.ALLOW, Reason.NODE)
    traffic = Traffic(subject, direction, peer, protocol, port)
    enforced = _judge(view, traffic, with_audited=False, own_node=own_node)
    if not enforced.allowed:
        return enforced
    together = _judge(view, traffic, with_audited=True, own_node=own_node)
    return enforced if together.allowed else Decision(Verdict.AUDIT, together.reason, together.policies)


def _judge(view: PolicyView, traffic: Traffic, *, with_audited: bool, own_node: bool) -> Decision:
    """Decide by the policies that are enforced, or by all policies if ``with_audited``."""
    decided = _decide_in_tier(view, Tier.ADMIN, traffic, with_audited=with_audited)
    if decided is not None:
        return decided
    isolating = [
        policy
        for policy in view.policies.values()
        if isolates(policy, traffic.subject, traffic.direction) and (with_audited or not is_audited(view, policy))
    ]
    if isolating and not own_node:
        # "v1.NetworkPolicy always makes a final decision for selected pods."
        return _decide_isolated(view, isolating, traffic)
    if not isolating:
        decided = _decide_in_tier(view, Tier.BASELINE, traffic, with_audited=with_audited)
    # "Traffic to and from the node where a Pod is running is always allowed" (the concept page of NetworkPolicy).
    return decided or Decision(Verdict.ALLOW, Reason.NODE if own_node else Reason.NO_POLICY)


def listing_order(ref: PolicyRef) -> tuple[str, str, str, int]:
    """Return the sort key by which policies are listed in records."""
    return ref.kind, ref.namespace, ref.name, -1 if ref.rule is None else ref.rule


def is_audited(view: PolicyView, policy: NetworkPolicy) -> bool:
    """Return whether a NetworkPolicy is in audit mode, by its own annotation or its namespace's."""
    namespace = view.namespaces.get(Name("", policy.namespace))
    return policy.audit or (namespace is not None and namespace.audit)


def rules_in(policy: NetworkPolicy, direction: Direction) -> tuple[Rule, ...] | None:
    """Return a NetworkPolicy's rules of one direction; None if it does not isolate in that direction."""
    return policy.egress if direction is Direction.EGRESS else policy.ingress


def isolates(policy: NetworkPolicy, subject: Pod, direction: Direction) -> bool:
    """Return whether a NetworkPolicy isolates a pod in a direction.

    "podSelector selects the pods to which this NetworkPolicy object applies", in the policy's namespace.
    """
    if rules_in(policy, direction) is None or policy.namespace != subject.namespace or subject.host_network:
        return False
    return selectors.matches(policy.pods, subject.labels)


def cluster_rules_in(policy: ClusterNetworkPolicy, direction: Direction) -> tuple[ClusterRule, ...]:
    """Return a ClusterNetworkPolicy's rules of one direction, in the order in which they are written.

    Their precedence "will be determined by the order in which the rule is written".
    """
    return policy.egress if direction is Direction.EGRESS else policy.ingress


def selects(view: PolicyView, policy: ClusterNetworkPolicy, subject: Pod) -> bool:
    """Return whether a ClusterNetworkPolicy applies to a pod.

    "Host-networked pods are not included in subject selection".
    """
    if subject.host_network or not namespace_matches(view, policy.namespaces, subject.namespace):
        return False
    return selectors.matches(policy.pods, subject.labels)


def policies_in_tier(view: PolicyView, tier: Tier) -> list[ClusterNetworkPolicy]:
    """Return the policies of a tier in the order in which they decide.

    "lower priority values ... are checked before" higher ones. Of equal priorities "the implementation can apply any":
    ours applies the first by kind and name, so that the result is always the same.
    """
    found = (policy for policy in view.cluster_policies.values() if policy.tier is tier)
    return sorted(found, key=lambda policy: (policy.priority, TIERED_KINDS.index(type(policy)), policy.name))


def _decide_in_tier(view: PolicyView, tier: Tier, traffic: Traffic, *, with_audited: bool) -> Decision | None:
    """Return what the tier's first matching rule says; None if no rule matches, or the rule says Pass."""
    for policy in policies_in_tier(view, tier):
        if (policy.audit and not with_audited) or not selects(view, policy, traffic.subject):
            continue
        for index, rule in enumerate(cluster_rules_in(policy, traffic.direction)):
            if not cluster_rule_matches(view, rule, traffic.peer, traffic.destination, traffic.protocol, traffic.port):
                continue
            if rule.action is Action.PASS:
                # "Skips all further ClusterNetworkPolicy rules in the current tier for the selected traffic".
                return None
            refs = (PolicyRef(type(policy).__name__, "", policy.name, index),)
            if rule.action is Action.ACCEPT:
                return Decision(Verdict.ALLOW, Reason.POLICY, refs)
            return Decision(Verdict.DENY, Reason.EXPLICIT_DENY, refs)
    return None


def _decide_isolated(view: PolicyView, isolating: list[NetworkPolicy], traffic: Traffic) -> Decision:
    """Decide for a subject that NetworkPolicies isolate, naming all rules that allow, or else all policies."""
    allowing = [ref for policy in isolating for ref in _allowing_rules(view, policy, traffic)]
    if allowing:
        return Decision(Verdict.ALLOW, Reason.POLICY, tuple(sorted(allowing, key=listing_order)))
    refs = (PolicyRef(type(policy).__name__, policy.namespace, policy.name) for policy in isolating)
    return Decision(Verdict.DENY, Reason.DEFAULT_DENY, tuple(sorted(refs, key=listing_order)))


def _allowing_rules(view: PolicyView, policy: NetworkPolicy, traffic: Traffic) -> Iterator[PolicyRef]:
    """Yield the rules that allow the traffic.

    It is allowed if it "matches at least one rule across all of the NetworkPolicy objects".
    """
    for index, rule in enumerate(rules_in(policy, traffic.direction) or ()):
        if rule_matches(
            view, policy.namespace, rule, traffic.peer, traffic.destination, traffic.protocol, traffic.port
        ):
            yield PolicyRef(type(policy).__name__, policy.namespace, policy.name, index)


def is_own_node(view: PolicyView, subject: Pod, peer: Endpoint) -> bool:
    """Return whether the peer is the node that the subject runs on, or a hostNetwork pod there."""
    node = view.nodes.get(Name("", subject.node))
    return node is not None and (peer.pod is None or peer.pod.host_network) and peer.ip in node.ips
