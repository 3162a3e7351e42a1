"""What network policy means, as pure functions: the reference that the kernel's maps are compared with.

The tiers are asked in order, "Admin tier, NetworkPolicy tier, Baseline tier" (``policy.networking.k8s.io/v1alpha2``,
whose wording is in quotes here beside that of ``networking.k8s.io/v1``). ``subject`` is the pod whose policy is judged,
``peer`` the other end. Nothing here is fast; :mod:`probe.policy.compiler` compiles the same meaning to map entries.

A policy that is audited takes no part in the verdict. Where the others alone allow what all together would deny, the
verdict is ``audit``, with the policies that would deny.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from enrich.model import Action, ClusterNetworkPolicy, ClusterRule, Name, NetworkPolicy, Pod, Protocol, Rule, Tier
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

__all__ = [
    "Decision",
    "Direction",
    "Endpoint",
    "PolicyView",
    "Traffic",
    "cluster_rules_in",
    "decide",
    "is_audited",
    "is_connection_allowed",
    "is_own_node",
    "isolates",
    "listing_order",
    "policies_in_tier",
    "rules",
    "selects",
]


@dataclass(frozen=True, slots=True)
class Traffic:
    """A new connection as one side of it sees it; ``port`` is the one that is connected to.

    ``protocol`` None: one that no policy names, as ICMP, which only rules without ports match.
    """

    subject: Pod
    direction: Direction
    peer: Endpoint
    protocol: Protocol | None
    port: int

    @property
    def destination(self) -> Pod | None:
        """The pod whose named ports count."""
        return self.peer.pod if self.direction is Direction.EGRESS else self.subject


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of one side, and the policies behind it: all that allow, the one that denies, or all that isolate.

    Of an ``audit``, reason and policies are those of the denial that there would be.
    """

    verdict: Verdict
    reason: Reason
    policies: tuple[PolicyRef, ...] = field(default=())

    @property
    def allowed(self) -> bool:
        """Whether the traffic passes."""
        return self.verdict is not Verdict.DENY


def is_connection_allowed(
    view: PolicyView, source: Endpoint, destination: Endpoint, protocol: Protocol, port: int
) -> bool:
    """Whether both ends let a new connection be. "Pods are isolated" at each end of their own."""
    sides = (
        decide(view, source.pod, Direction.EGRESS, destination, protocol, port) if source.pod else None,
        decide(view, destination.pod, Direction.INGRESS, source, protocol, port) if destination.pod else None,
    )
    return all(side is None or side.allowed for side in sides)


def decide(
    view: PolicyView, subject: Pod, direction: Direction, peer: Endpoint, protocol: Protocol | None, port: int
) -> Decision:
    """Whether the subject's policies let it connect to, or be connected from, the peer on the destination's port."""
    if peer.ip in subject.ips:
        return Decision(Verdict.ALLOW, Reason.SELF)
    own_node = is_own_node(view, subject, peer)
    if own_node and direction is Direction.INGRESS:
        # No peer of an ingress rule can be a node, and see below.
        return Decision(Verdict.ALLOW, Reason.NODE)
    traffic = Traffic(subject, direction, peer, protocol, port)
    enforced = _judge(view, traffic, audited=False, own_node=own_node)
    if not enforced.allowed:
        return enforced
    together = _judge(view, traffic, audited=True, own_node=own_node)
    return enforced if together.allowed else Decision(Verdict.AUDIT, together.reason, together.policies)


def _judge(view: PolicyView, traffic: Traffic, *, audited: bool, own_node: bool) -> Decision:
    """The verdict of the policies that are enforced, or, with ``audited``, of all."""
    decided = _in_tier(view, Tier.ADMIN, traffic, audited=audited)
    if decided is not None:
        return decided
    isolating = [
        policy
        for policy in view.policies.values()
        if isolates(policy, traffic.subject, traffic.direction) and (audited or not is_audited(view, policy))
    ]
    if isolating and not own_node:
        # "v1.NetworkPolicy always makes a final decision for selected pods."
        return _isolated(view, isolating, traffic)
    if not isolating:
        decided = _in_tier(view, Tier.BASELINE, traffic, audited=audited)
    # "Traffic to and from the node where a Pod is running is always allowed" (the concept's page).
    return decided or Decision(Verdict.ALLOW, Reason.NODE if own_node else Reason.NO_POLICY)


def listing_order(ref: PolicyRef) -> tuple[str, str, str, int]:
    """How policies are listed."""
    return ref.kind, ref.namespace, ref.name, -1 if ref.rule is None else ref.rule


def is_audited(view: PolicyView, policy: NetworkPolicy) -> bool:
    """By its own annotation or its namespace's."""
    home = view.namespaces.get(Name("", policy.namespace))
    return policy.audit or (home is not None and home.audit)


def rules(policy: NetworkPolicy, direction: Direction) -> tuple[Rule, ...] | None:
    """The rules of a direction; None: the policy does not isolate in it."""
    return policy.egress if direction is Direction.EGRESS else policy.ingress


def isolates(policy: NetworkPolicy, subject: Pod, direction: Direction) -> bool:
    """ "podSelector selects the pods to which this NetworkPolicy object applies", in the policy's namespace."""
    if rules(policy, direction) is None or policy.namespace != subject.namespace or subject.host_network:
        return False
    return selectors.matches(policy.pods, subject.labels)


def cluster_rules_in(policy: ClusterNetworkPolicy, direction: Direction) -> tuple[ClusterRule, ...]:
    """The rules of a direction, which "will be determined by the order in which the rule is written"."""
    return policy.egress if direction is Direction.EGRESS else policy.ingress


def selects(view: PolicyView, policy: ClusterNetworkPolicy, subject: Pod) -> bool:
    """Whether the policy applies to the pod. "Host-networked pods are not included in subject selection"."""
    if subject.host_network or not namespace_matches(view, policy.namespaces, subject.namespace):
        return False
    return selectors.matches(policy.pods, subject.labels)


def policies_in_tier(view: PolicyView, tier: Tier) -> list[ClusterNetworkPolicy]:
    """The tier's policies, "lower priority values ... are checked before" higher ones.

    Of equal priorities "the implementation can apply any": here the first by name, so that it is always the same.
    """
    found = (policy for policy in view.cluster_policies.values() if policy.tier is tier)
    return sorted(found, key=lambda policy: (policy.priority, policy.name))


def _in_tier(view: PolicyView, tier: Tier, traffic: Traffic, *, audited: bool) -> Decision | None:
    """What the first rule of the tier that matches says; None where none does, or it is "Pass"."""
    for policy in policies_in_tier(view, tier):
        if (policy.audit and not audited) or not selects(view, policy, traffic.subject):
            continue
        for index, rule in enumerate(cluster_rules_in(policy, traffic.direction)):
            if not cluster_rule_matches(view, rule, traffic.peer, traffic.destination, traffic.protocol, traffic.port):
                continue
            if rule.action is Action.PASS:
                # "Skips all further ClusterNetworkPolicy rules in the current tier for the selected traffic".
                return None
            named = (PolicyRef("ClusterNetworkPolicy", "", policy.name, index),)
            if rule.action is Action.ACCEPT:
                return Decision(Verdict.ALLOW, Reason.POLICY, named)
            return Decision(Verdict.DENY, Reason.EXPLICIT_DENY, named)
    return None


def _isolated(view: PolicyView, isolating: list[NetworkPolicy], traffic: Traffic) -> Decision:
    """Of a subject that NetworkPolicies isolate: all the rules that allow, else all that isolate."""
    allowing = [ref for policy in isolating for ref in _allowing(view, policy, traffic)]
    if allowing:
        return Decision(Verdict.ALLOW, Reason.POLICY, tuple(sorted(allowing, key=listing_order)))
    refs = (PolicyRef("NetworkPolicy", policy.namespace, policy.name) for policy in isolating)
    return Decision(Verdict.DENY, Reason.DEFAULT_DENY, tuple(sorted(refs, key=listing_order)))


def _allowing(view: PolicyView, policy: NetworkPolicy, traffic: Traffic) -> Iterator[PolicyRef]:
    """ "Traffic is allowed" if it "matches at least one rule across all of the NetworkPolicy objects"."""
    for index, rule in enumerate(rules(policy, traffic.direction) or ()):
        if rule_matches(
            view, policy.namespace, rule, traffic.peer, traffic.destination, traffic.protocol, traffic.port
        ):
            yield PolicyRef("NetworkPolicy", policy.namespace, policy.name, index)


def is_own_node(view: PolicyView, subject: Pod, peer: Endpoint) -> bool:
    """Whether the peer is the node that the subject runs on."""
    node = view.nodes.get(Name("", subject.node))
    return node is not None and (peer.pod is None or peer.pod.host_network) and peer.ip in node.ips
