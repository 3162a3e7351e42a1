"""Finds the rules of NetworkPolicies that allow everything that another rule of the same namespace allows.

To compare each rule with each other one takes minutes for some thousand rules. So an index finds the few that may cover
a rule, and only those are compared:

1. A condition of a rule becomes tokens, of which a rule that it covers has at least one. A rule for peers ``app In
   (web, api)`` asks for ``app=web`` or ``app=api``.
2. Of its conditions (subjects, peers, ports), each rule is entered under the one that the fewest others have.
3. A rule for the peer ``app=web`` is looked up under ``app=web`` and its other tokens, which finds all that may cover
   it.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final

from enrich.history.advice.containment import are_peers_in, are_ports_in, are_subjects_in
from enrich.history.advice.traffic import network
from enrich.label_selector import Operator, Requirement, namespace_selector
from enrich.model import NetworkPolicy, Peer, PolicyPort, Rule
from enrich.policy.decide import rules_in
from enrich.policy.matching import Direction
from enrich.wire.references import PolicyRef

_Tokens = frozenset[Hashable]
"""What one part of a condition asks for: one of these is enough."""
_Condition = list[list[_Tokens]]
"""For each peer or port of a rule, sets of tokens. What that peer covers has a token of each of its sets, so that any
one of these stands for the peer."""
_ANY: Final = frozenset({"any"})
_ANY_PEER: Final = frozenset({"any peer"})


class Covering:
    """The rules of one direction of NetworkPolicies of a namespace, of which all are audited or none is."""

    def __init__(self, policies: Iterable[NetworkPolicy], direction: Direction) -> None:
        """``policies``: in the order of their names."""
        self._direction = direction
        self._rules = [
            (policy, index, rule) for policy in policies for index, rule in enumerate(rules_in(policy, direction) or ())
        ]
        conditions = [_conditions(policy, rule) for policy, _, rule in self._rules]
        common: Counter[Hashable] = Counter()
        for of_rule in conditions:
            common.update(set().union(*(tokens for condition in of_rule for part in condition for tokens in part)))
        self._by_token: dict[Hashable, list[int]] = defaultdict(list)
        for number, of_rule in enumerate(conditions):
            for token in _rarest(of_rule, common):
                self._by_token[token].append(number)

    def of(self, policy: NetworkPolicy, index: int) -> Iterator[PolicyRef]:
        """Yield the rules that cover a rule, in their order. Of two equal ones only the later is covered."""
        rule, place = (rules_in(policy, self._direction) or ())[index], (policy.key, index)
        last = -1
        for number in heapq.merge(*(self._by_token.get(token, ()) for token in _offered_by(policy, rule))):
            if number == last:
                continue
            last = number
            other_policy, other_index, other = self._rules[number]
            other_place = (other_policy.key, other_index)
            if other_place == place or not _is_in(policy, rule, other_policy, other):
                continue
            if other_place < place or not _is_in(other_policy, other, policy, rule):
                yield PolicyRef(NetworkPolicy.__name__, other_policy.namespace, other_policy.name, other_index)


def _is_in(policy: NetworkPolicy, rule: Rule, other_policy: NetworkPolicy, other: Rule) -> bool:
    """Return whether another rule matches everything that a rule matches."""
    return (
        are_subjects_in(policy, other_policy)
        and are_ports_in(rule.ports, other.ports)
        and are_peers_in(policy, rule.peers, other_policy, other.peers)
    )


# --- what a rule asks of those that it covers


def _conditions(policy: NetworkPolicy, rule: Rule) -> list[_Condition]:
    found: list[_Condition] = [[[_asked_by("subject", one)]] for one in policy.pods.requirements]
    if rule.peers:
        found.append([_asked_by_peer(policy, peer) for peer in rule.peers])
    if rule.ports:
        found.append([[_asked_by_port(port)] for port in rule.ports])
    return found


def _rarest(conditions: Sequence[_Condition], common: Counter[Hashable]) -> _Tokens:
    """Return the tokens of the condition that the fewest rules have."""

    def cost(tokens: _Tokens) -> int:
        return sum(common[token] for token in tokens)

    chosen: list[_Tokens] = [frozenset().union(*(min(part, key=cost) for part in one)) for one in conditions]
    return min(chosen, key=cost, default=_ANY)


def _asked_by(field: str, one: Requirement) -> _Tokens:
    if one.operator is Operator.IN:
        return frozenset((field, one.key, value) for value in one.values)
    return frozenset({(field, one.key)})


def _asked_by_peer(policy: NetworkPolicy, peer: Peer) -> list[_Tokens]:
    if peer.ip_block is not None:
        *_, narrowest = _networks(peer.ip_block.cidr)
        return [frozenset({narrowest})]
    return [_asked_by(*one) for one in _requirements(policy, peer)] or [_ANY_PEER]


def _asked_by_port(port: PolicyPort) -> _Tokens:
    if port.end_port not in (None, port.port):
        return frozenset({(port.protocol, "range")})
    return frozenset({(port.protocol, "port", port.port)})


# --- what a rule offers


def _offered_by(policy: NetworkPolicy, rule: Rule) -> set[Hashable]:
    """Return the tokens of a rule. Each of its peers must be covered, so that those of the first one are enough; and so
    it is with ports."""
    found = set(_ANY).union(*(_offered("subject", one) for one in policy.pods.requirements))
    for peer in rule.peers[:1]:
        if peer.ip_block is not None:
            found.update(_networks(peer.ip_block.cidr))
        else:
            found.update(_ANY_PEER, *(_offered(*one) for one in _requirements(policy, peer)))
    for port in rule.ports[:1]:
        found |= {(port.protocol, "range"), (port.protocol, "port", None), (port.protocol, "port", port.port)}
    return found


def _offered(field: str, one: Requirement) -> Iterator[Hashable]:
    yield field, one.key
    if one.operator is Operator.IN:
        # A selector covers this one only if it has all of its values.
        yield from ((field, one.key, value) for value in one.values[:1])


def _requirements(policy: NetworkPolicy, peer: Peer) -> Iterator[tuple[str, Requirement]]:
    namespaces = peer.namespaces if peer.namespaces is not None else namespace_selector(policy.namespace)
    yield from (("namespace", one) for one in namespaces.requirements)
    yield from (("pod", one) for one in (peer.pods.requirements if peer.pods is not None else ()))


def _networks(cidr: str) -> Iterator[Hashable]:
    """Yield the networks that have all addresses of a network, the widest first and itself last."""
    made = network(cidr)
    bits, first = made.max_prefixlen, int(made.network_address)
    yield from ((made.version, length, first >> (bits - length)) for length in range(made.prefixlen + 1))
