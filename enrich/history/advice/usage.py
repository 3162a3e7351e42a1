"""How policies were used: by whom they are selected, which rules decided, how often, and which cannot decide.

A verdict names the rules that decided by their index in the policy of its time. So what a pair says counts for a rule
of today only since that rule, its index and the pods of its policy have been what they are now. A pair whose hour has
the change in it may be about either: then it is not said that the rule was not used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from enrich.history.advice.containment import are_peers_in, are_ports_in, are_subjects_in
from enrich.history.advice.covering import Covering
from enrich.history.advice.permits import WorkloadKey, workload_of
from enrich.history.comparing import AFTER_NS, BEFORE_NS
from enrich.history.profile import all_left_out, is_left_out
from enrich.history.stand_ins import direction_of, stand_in
from enrich.history.versions import Version
from enrich.label_selector import Selector
from enrich.model import Action, ClusterNetworkPolicy, ClusterRule, NetworkPolicy, Pod, Policy, Rule, Tier
from enrich.policy.decide import cluster_rules_in, is_audited, isolates, policies_in_tier, rules_in, selects
from enrich.policy.matching import Direction, PolicyView, namespace_matches
from enrich.wire.journal import Profile
from enrich.wire.pair import Pair
from enrich.wire.references import PolicyRef

State = Literal["used", "not seen", "cannot say", "shadowed", "adds nothing", "selects nobody"]
Versions = Callable[[str, str, str], Sequence[Version]]
"""Returns the versions of a policy by kind, namespace and name, the oldest first."""


@dataclass(slots=True)
class Uses:
    """What pairs say of a policy or of a rule."""

    allowed: int = 0
    """Connections that it allowed."""
    denied: int = 0
    """Packets that it denied."""
    audited: int = 0
    """Connections that passed and that it would deny."""
    last_ns: int = 0

    def add(self, pair: Pair) -> None:
        """Add a pair."""
        match pair.key.verdict:
            case "allow":
                self.allowed += pair.verdicts
            case "deny":
                self.denied += pair.packets
            case "audit":
                self.audited += pair.verdicts
        self.last_ns = max(self.last_ns, pair.last_ns)

    @property
    def is_used(self) -> bool:
        """Whether it decided anything."""
        return self.last_ns > 0


@dataclass(slots=True)
class RuleUse:
    """A rule of a policy as it is today."""

    direction: Direction
    index: int
    name: str
    since_ns: int
    """From when on pairs count for it: the begin of the window, or when it became what it is."""
    uses: Uses = field(default_factory=Uses)
    has_changed: bool = False
    """Whether it became what it is in the window. The kernel has a change some time before or after the journal."""
    may_be_used: bool = False
    """A pair names it that may be about an earlier rule of the same index."""
    by: PolicyRef | None = None
    """The rule that shadows it, or that allows the same."""
    state: State = "not seen"


@dataclass(slots=True)
class PolicyUse:
    """A policy as it is today."""

    policy: Policy
    audited: bool
    workloads: tuple[WorkloadKey, ...] | None
    """The workloads whose pods it selects; None: it asks for a label that profiles do not have, or there are pods of
    which the journal knows nothing."""
    uses: Uses = field(default_factory=Uses)
    rules: list[RuleUse] = field(default_factory=list)


class _Beside:
    """The rules of NetworkPolicies that may cover others, by namespace, direction and whether they are audited."""

    def __init__(self, view: PolicyView) -> None:
        self._policies: dict[tuple[str, bool], list[NetworkPolicy]] = defaultdict(list)
        for policy in sorted(view.policies.values(), key=lambda one: one.key):
            self._policies[policy.namespace, is_audited(view, policy)].append(policy)
        self._covering: dict[tuple[str, bool, Direction], Covering] = {}

    def of(self, namespace: str, direction: Direction, *, audited: bool) -> Covering:
        """Return the rules of a namespace and a direction."""
        key = (namespace, audited, direction)
        if key not in self._covering:
            self._covering[key] = Covering(self._policies[namespace, audited], direction)
        return self._covering[key]


def usage(
    view: PolicyView,
    profiles: Mapping[str, Profile],
    pairs: Iterable[Pair],
    versions: Versions,
    since_ns: int,
    namespace: str | None = None,
    refused: Collection[str] = (),
) -> list[PolicyUse]:
    """Return how each policy was used. ``namespace`` chooses its NetworkPolicies.

    ``refused``: the namespaces of pods whose profiles did not fit the journal."""
    chosen: Iterable[Policy] = view.all_policies()
    if namespace is not None:
        chosen = (policy for policy in view.policies.values() if policy.namespace == namespace)
    pods = {number: stand_in(profile, number) for number, profile in profiles.items() if not profile.host_network}
    by_namespace: dict[str, dict[str, Pod]] = defaultdict(dict)
    for number, pod in pods.items():
        by_namespace[pod.namespace][number] = pod
    left_out = all_left_out(profiles.values())
    found = []
    for policy in chosen:
        may = pods if isinstance(policy, ClusterNetworkPolicy) else by_namespace.get(policy.namespace, {})
        workloads = _workloads(view, profiles, may, policy, left_out, refused)
        found.append(_policy_use(view, policy, workloads, versions, since_ns))
    _count(found, pairs)
    beside = _Beside(view)
    for use in found:
        for rule in use.rules:
            _judge(view, use, rule, beside)
    return sorted(found, key=lambda one: (type(one.policy).__name__, one.policy.key))


def _policy_use(
    view: PolicyView, policy: Policy, workloads: tuple[WorkloadKey, ...] | None, versions: Versions, since_ns: int
) -> PolicyUse:
    earlier = versions(type(policy).__name__, policy.key.namespace, policy.name)
    audited = is_audited(view, policy) if isinstance(policy, NetworkPolicy) else policy.audit
    use = PolicyUse(policy, audited, workloads)
    for direction in (Direction.INGRESS, Direction.EGRESS):
        for index, rule in enumerate(rules_of(policy, direction)):
            name = rule.name if isinstance(rule, ClusterRule) else ""
            same_ns = _same_since(policy, direction, index, earlier)
            use.rules.append(RuleUse(direction, index, name, max(since_ns, same_ns), has_changed=same_ns >= since_ns))
    return use


def rules_of(policy: Policy, direction: Direction) -> Sequence[Rule | ClusterRule]:
    """Return the rules of one direction, of a policy of any kind."""
    if isinstance(policy, ClusterNetworkPolicy):
        return cluster_rules_in(policy, direction)
    return rules_in(policy, direction) or ()


def _workloads(
    view: PolicyView,
    profiles: Mapping[str, Profile],
    pods: Mapping[str, Pod],
    policy: Policy,
    left_out: Collection[str],
    refused: Collection[str],
) -> tuple[WorkloadKey, ...] | None:
    if any(is_left_out(one.key, left_out) for one in policy.pods.requirements):
        return None
    if any(is_about(view, policy, namespace) for namespace in refused):
        return None
    selected = (number for number, pod in pods.items() if does_select(view, policy, pod))
    return tuple(sorted({workload_of(number, profiles[number]) for number in selected}))


def is_about(view: PolicyView, policy: Policy, namespace: str) -> bool:
    """Return whether a policy of any kind can select pods of a namespace."""
    if isinstance(policy, ClusterNetworkPolicy):
        return namespace_matches(view, policy.namespaces, namespace)
    return policy.namespace == namespace


def does_select(view: PolicyView, policy: Policy, pod: Pod) -> bool:
    """Return whether a policy of any kind selects a pod."""
    if isinstance(policy, ClusterNetworkPolicy):
        return selects(view, policy, pod)
    return any(isolates(policy, pod, direction) for direction in Direction)


def _same_since(policy: Policy, direction: Direction, index: int, versions: Sequence[Version]) -> int:
    """Return since when the rule of an index has been what it is today, for the same pods."""
    today = (_subjects_of(policy), rules_of(policy, direction)[index])
    since = 0
    for version in reversed(versions):
        state = version.state
        if not isinstance(state, Policy) or len(rules_of(state, direction)) <= index:
            break
        if (_subjects_of(state), rules_of(state, direction)[index]) != today:
            break
        since = version.seen_ns
    return since


def _subjects_of(policy: Policy) -> tuple[Selector, Selector | None]:
    """Return what chooses the pods of a policy: a ClusterNetworkPolicy has a selector of namespaces, too."""
    return policy.pods, policy.namespaces if isinstance(policy, ClusterNetworkPolicy) else None


def _count(found: Iterable[PolicyUse], pairs: Iterable[Pair]) -> None:
    policies: dict[tuple[str, str, str], PolicyUse] = {}
    rules: dict[tuple[str, str, str], dict[tuple[Direction, int], RuleUse]] = defaultdict(dict)
    for use in found:
        key = (type(use.policy).__name__, use.policy.key.namespace, use.policy.name)
        policies[key] = use
        rules[key] = {(rule.direction, rule.index): rule for rule in use.rules}
    for pair in pairs:
        direction = direction_of(pair.key)
        for key in {(ref.kind, ref.namespace, ref.name) for ref in pair.key.policies}:
            if key in policies:
                policies[key].uses.add(pair)
        for ref in pair.key.policies:
            rule = None if ref.rule is None else rules[ref.kind, ref.namespace, ref.name].get((direction, ref.rule))
            if rule is None or pair.last_ns < rule.since_ns - (AFTER_NS if rule.has_changed else 0):
                continue
            if pair.first_ns < rule.since_ns + (BEFORE_NS if rule.has_changed else 0):
                rule.may_be_used = True
            else:
                rule.uses.add(pair)


def _judge(view: PolicyView, use: PolicyUse, rule: RuleUse, beside: _Beside) -> None:
    """Say what has become of a rule. That something decides before it is said only if it is proven."""
    rule.by = next(_deciding_before(view, use, rule), None)
    covering = None if rule.by else _covering(use, rule, beside)
    if use.workloads == ():
        rule.state = "selects nobody"
    elif rule.by is not None:
        rule.state = "shadowed"
    elif rule.uses.is_used:
        rule.state = "used"
    elif rule.may_be_used:
        rule.state = "cannot say"
    if covering is not None and rule.state in ("used", "not seen", "cannot say"):
        rule.by, rule.state = covering, "adds nothing"


def _deciding_before(view: PolicyView, use: PolicyUse, rule: RuleUse) -> Iterator[PolicyRef]:
    """Yield rules that decide everything that a rule matches before it is asked."""
    for tier in Tier:
        for policy in policies_in_tier(view, tier):
            own = policy.key == use.policy.key and type(policy) is type(use.policy)
            rules = cluster_rules_in(policy, rule.direction)
            for index, other in enumerate(rules[: rule.index] if own else rules):
                # Pass ends its own tier only.
                ends_here = other.action is not Action.PASS or _tier(use.policy) is tier
                if ends_here and (own or not policy.audit) and _is_in(use.policy, rule, policy, other):
                    yield PolicyRef(type(policy).__name__, "", policy.name, index)
            if own:
                return
        if _tier(use.policy) in (tier, None):
            return


def _tier(policy: Policy) -> Tier | None:
    return policy.tier if isinstance(policy, ClusterNetworkPolicy) else None


def _covering(use: PolicyUse, rule: RuleUse, beside: _Beside) -> PolicyRef | None:
    """Return a rule of a NetworkPolicy that allows everything that a NetworkPolicy's rule allows."""
    if not isinstance(use.policy, NetworkPolicy):
        return None
    found = beside.of(use.policy.namespace, rule.direction, audited=use.audited)
    return next(found.of(use.policy, rule.index), None)


def _is_in(policy: Policy, rule: RuleUse, other_policy: Policy, other: Rule | ClusterRule) -> bool:
    """Return whether another rule matches everything that a rule matches."""
    own = rules_of(policy, rule.direction)[rule.index]
    return (
        are_subjects_in(policy, other_policy)
        and are_ports_in(own.ports, other.ports)
        and are_peers_in(policy, own.peers, other_policy, other.peers)
    )
