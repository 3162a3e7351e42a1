"""Suggests the smallest NetworkPolicies that would allow one connection that policies deny today.

An example: ``default-deny`` isolates every pod of ``data``, and ``shop/web-7d9c`` may not reach ``data/db-0:5432``.
The suggestion is a policy of ``data`` that selects the pods ``app=db``, with one rule: from pods ``app=web`` of
``shop``, to 5432/TCP. If egress of ``shop/web-7d9c`` is denied too, there is a second policy for that end.

- A suggestion only ever allows. A new policy isolates the pods that it selects, so its selector is that of a policy
  that isolates them already, with more requirements: no pod, today or later, becomes isolated by it.
- Labels that differ by pod or by rollout are never used (:data:`enrich.history.profile.LEFT_OUT`), so the rule still
  fits the pods of the next rollout.
- The suggestion is tried before it is given: with it, :func:`enrich.explain.explanation.explain_connection` says that
  the connection passes.
- What no NetworkPolicy can allow is said, and by which policy it is denied.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from enrich.explain.explanation import ALLOW, AUDIT, DENY, UNKNOWN, Explanation, explain_connection
from enrich.explain.one_end import EndDecision
from enrich.explain.query import EndQuery, ResolvedEnd, UnanswerableError, resolve_end
from enrich.history.advice.label_choice import CHANGING, choose
from enrich.history.profile import is_left_out
from enrich.label_selector import Operator, Requirement, Selector, namespace_selector
from enrich.model import IPBlock, Labels, Name, NetworkPolicy, Peer, Pod, PolicyPort, Protocol, Rule, Service, Tier
from enrich.parse.manifest_of import Document, manifest_of
from enrich.policy import selectors
from enrich.policy.matching import PolicyView
from enrich.wire.batch import PolicyRef

_MAX_NAMED: Final = 5
_EVERYTHING: Final = Selector()
_OUTSIDE_NAMES: Final = re.compile("[^a-z0-9]+")


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """What would allow a connection. ``weir explain --suggest -o json`` prints it."""

    text: str
    """What the policies do; without policies, why there are none."""
    policies: tuple[Document, ...] = ()
    """Manifests of new NetworkPolicies; with all of them the connection passes."""
    notes: tuple[str, ...] = ()
    """What else the policies allow, and what may make them wrong."""


class _NoRuleError(Exception):
    """No NetworkPolicy can be suggested; the message says why."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A selector for the pods like one pod."""

    selector: Selector
    others: tuple[str, ...]
    """The names of other pods that it selects, because their labels do not tell them apart."""


def suggest(view: PolicyView, services: Mapping[Name, Service], source: EndQuery, destination: EndQuery) -> Suggestion:
    """Return what would allow a connection. This never raises: what cannot be suggested is said."""
    before = explain_connection(view, services, source, destination)
    if before.verdict == UNKNOWN:
        return Suggestion(text=f"cannot say: {before.text}")
    if before.verdict == ALLOW:
        return Suggestion(text="nothing needs to be added: it is allowed")
    try:
        ends = resolve_end(view, services, source), resolve_end(view, services, destination)
        policies, notes = _policies(view, before, ends, destination.protocol)
    except (UnanswerableError, _NoRuleError) as error:
        return Suggestion(text=str(error))
    added = replace(view, policies={**view.policies, **{one.key: one for one in policies}})
    after = explain_connection(added, services, source, destination)
    documents = [manifest_of(one) for one in policies]
    if after.verdict not in ((ALLOW,) if before.verdict == AUDIT else (ALLOW, AUDIT)):
        return Suggestion(text=f"cannot say: with the rules that its labels and addresses lead to, it is {after.text}")
    if None in documents:
        return Suggestion(
            text="cannot say: its pods have labels, or a policy has a selector, that no manifest can have"
        )
    what = "this NetworkPolicy" if len(policies) == 1 else f"these {len(policies)} NetworkPolicies together"
    return Suggestion(
        text=f"{what} would allow it", policies=tuple(one for one in documents if one is not None), notes=tuple(notes)
    )


def _policies(
    view: PolicyView, before: Explanation, ends: tuple[ResolvedEnd, ResolvedEnd], protocol: Protocol | None
) -> tuple[list[NetworkPolicy], list[str]]:
    """Return a policy for each end that denies, and notes about them. Raises _NoRuleError."""
    denial = AUDIT if before.verdict == AUDIT else DENY
    denying: dict[str, EndDecision] = {}
    addresses: dict[str, list[str]] = {}
    for answer in before.answers:
        for side in answer.sides:
            if side.verdict == denial:
                denying.setdefault(side.direction, side)
                ip = answer.destination_ip if side.direction == "egress" else answer.source_ip
                addresses.setdefault(side.direction, []).append(ip)
    if why := "; ".join(text for side in denying.values() if (text := _why_never(view, side))):
        raise _NoRuleError(why)
    if protocol is None or before.port is None:
        raise _NoRuleError(
            "no NetworkPolicy can name ICMP: only a rule without ports allows it, together with every port of every "
            "protocol"
        )
    made, notes = [], []
    for direction, side in denying.items():
        subject, peer = ends if direction == "egress" else ends[::-1]
        ips = tuple(dict.fromkeys(addresses[direction]))
        policy, about = _policy(view, side, (subject, peer), ips, PolicyPort(protocol, before.port))
        made.append(policy)
        notes += about
    return made, list(dict.fromkeys(notes))


def _why_never(view: PolicyView, side: EndDecision) -> str:
    """Return why no NetworkPolicy can allow what this end denies; empty if one can."""
    for ref in side.policies if side.reason == "explicit_deny" else ():
        named = (
            one for one in view.cluster_policies.values() if (type(one).__name__, one.name) == (ref.kind, ref.name)
        )
        what = f"{ref.kind} {ref.name} (rule {ref.rule}) denies {side.direction} of {side.namespace}/{side.pod}"
        if all(one.tier is Tier.ADMIN for one in named):
            return f"{what}, and no NetworkPolicy can allow what the Admin tier denies: that policy itself must change"
        return (
            f"{what} in the Baseline tier. A NetworkPolicy is asked before it, but would isolate the pods that it "
            "selects: everything that it does not list would be denied, so it must list all that they need "
            "(weir recommend)"
        )
    return ""


def _policy(
    view: PolicyView, side: EndDecision, ends: tuple[ResolvedEnd, ResolvedEnd], ips: tuple[str, ...], port: PolicyPort
) -> tuple[NetworkPolicy, list[str]]:
    """Return the policy for one end, and notes about it. ``ends``: the subject and the peer; ``ips``: of the peer."""
    subject, peer = ends
    isolating = _widest(view, side.policies)
    if subject.pod is None or isolating is None:
        raise _NoRuleError(f"cannot say: which policies isolate {side.namespace}/{side.pod} is not known")
    selected = _like(view, subject.pod, isolating.pods)
    notes = list(_coverage(subject.pod, selected))
    if peer.pod is None:
        peers = tuple(Peer(ip_block=IPBlock(str(ipaddress.ip_network(ip)))) for ip in ips)
        word = ips[0]
        if peer.kind != "address":
            notes.append(
                f"no NetworkPolicy selects {peer.name}, which has its node's network: the rule names its addresses, so "
                "it allows everything on that node, and is wrong as soon as the node has others"
            )
    else:
        chosen = _like(view, peer.pod, _EVERYTHING)
        is_near = peer.pod.namespace == side.namespace
        peers = (Peer(None if is_near else namespace_selector(peer.pod.namespace), chosen.selector),)
        word = _word(chosen.selector, peer.pod)
        notes += _coverage(peer.pod, chosen)
    rules = (Rule(peers, (port,)),)
    between = "to" if side.direction == "egress" else "from"
    protocol = "" if port.protocol is Protocol.TCP else port.protocol.name
    name = _free_name(
        view, side.namespace, "allow", _word(selected.selector, subject.pod), between, word, str(port.port), protocol
    )
    if isolating.audit:
        notes.append(f"{name} is in audit mode as {isolating.name} is: enforce both together")
    return (
        NetworkPolicy(
            side.namespace, name, "", selected.selector, audit=isolating.audit,
            ingress=rules if side.direction == "ingress" else None,
            egress=rules if side.direction == "egress" else None,
        ),
        notes,
    )  # fmt: skip


def _widest(view: PolicyView, refs: tuple[PolicyRef, ...]) -> NetworkPolicy | None:
    """Return the policy whose selector asks for least, among those that isolate the subject."""
    there = [view.policies[key] for ref in refs if (key := Name(ref.namespace, ref.name)) in view.policies]
    return min(there, key=lambda one: (len(one.pods.requirements), one.name), default=None)


# --- labels


def _like(view: PolicyView, pod: Pod, within: Selector) -> _Chosen:
    """Return a selector for the pods of a namespace that are like one pod, and as few others as labels can tell apart.
    All the pods that it selects are selected by ``within``, too."""
    others: list[Pod] = []
    inside = [_lasting(pod.labels)]
    for one in view.pods.values():
        is_there = one.namespace == pod.namespace and not one.host_network and not one.terminated
        if one.key != pod.key and is_there and selectors.matches(within, one.labels):
            if _identity(one.labels) == _identity(pod.labels):
                inside.append(_lasting(one.labels))
            else:
                others.append(one)
    choice = choose(inside, [_lasting(one.labels) for one in others])
    chosen = choice.selector.requirements
    kept = tuple(one for one in within.requirements if not any(_implies(other, one) for other in chosen))
    # A manifest has labels with one value first (matchLabels), by key, then the others (matchExpressions).
    ordered = sorted(
        dict.fromkeys((*kept, *chosen)),
        key=lambda one: (one.operator is not Operator.IN or len(one.values) != 1, one.key),
    )
    return _Chosen(Selector(tuple(ordered)), tuple(sorted(others[index].name for index in choice.also)))


def _lasting(labels: Labels) -> Labels:
    """Return the labels that do not differ by pod or by rollout."""
    return {key: value for key, value in labels.items() if not is_left_out(key)}


def _identity(labels: Labels) -> Labels:
    """Return the labels that say what a pod is: two releases of it have the same."""
    return {key: value for key, value in _lasting(labels).items() if key not in CHANGING}


def _implies(one: Requirement, other: Requirement) -> bool:
    """Return whether all labels that meet a requirement of one kind of values meet the other one."""
    if one.key != other.key or one.operator is not Operator.IN:
        return one == other
    return all(selectors.requirement_matches(other, {one.key: value}) for value in one.values)


def _coverage(pod: Pod, chosen: _Chosen) -> Iterator[str]:
    """Yield what people must know of what a selector selects."""
    if not chosen.selector.requirements:
        yield f"no lasting label tells {pod.key} apart, so the rule is for every pod of namespace {pod.namespace}"
    elif chosen.others:
        rest = f" and {len(chosen.others) - _MAX_NAMED} more" if len(chosen.others) > _MAX_NAMED else ""
        named = ", ".join(chosen.others[:_MAX_NAMED])
        yield f"no lasting label tells {pod.key} from other pods there, so the rule is for them, too: {named}{rest}"


# --- names


def _word(selector: Selector, pod: Pod) -> str:
    """Return a word for some pods, as a part of a policy's name."""
    values = (one.values[0] for one in selector.requirements if one.operator is Operator.IN and len(one.values) == 1)
    return next(values, pod.namespace)


def _free_name(view: PolicyView, namespace: str, *words: str) -> str:
    """Return a name of these words that no policy of the namespace has: ``kubectl apply`` would replace that one."""
    name = "-".join(part for word in words if (part := _OUTSIDE_NAMES.sub("-", word.lower()).strip("-")))
    number = 1
    while Name(namespace, found := f"{name}-{number}" if number > 1 else name) in view.policies:
        number += 1
    return found
