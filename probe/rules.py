"""Compiles the cluster's policies to what the kernel's maps must hold, for the pods of one node. Pure.

A *term* is one distinct way in which a rule in force names peers: two selectors, or a CIDR with its exceptions. Peers
that the same terms match, and on which the named ports in use have the same numbers, are one *identity*; every address
maps to its identity. A *set* is what applies to a subject; subjects with the same policies share it. For a set, a
direction and an identity there is a *row*: the answer for every port that no port entry tells otherwise. The union of
rules, their port ranges and names are flattened here; the kernel compares nothing.

Sets and rows are numbered by their content, so that they never change under a number, and equal input gives equal
output.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from enrich import selectors
from enrich.model import IPBlock, Labels, Name, NetworkPolicy, Peer, Pod, PolicyPort, Protocol, Rule, Selector
from enrich.policy import Direction, PolicyView, isolates, order, resolve
from enrich.records import PolicyRef, Reason, Verdict
from probe.numbers import Numbers
from probe.ports import prefixes, segments

POD, NODE, WORLD = 0, 1, 2
"""Kinds of peer, as in ``bpf/layout.h``."""


class Row(NamedTuple):
    """The answer where no entry of ``ports`` matches; ``ports`` 0: there are none."""

    ports: int
    rule: int
    verdict: int
    reason: int


class Answer(NamedTuple):
    """The answer for a port."""

    verdict: int
    reason: int
    rule: int


class Identity(NamedTuple):
    """What an address stands for."""

    number: int
    kind: int


Defaults = tuple[tuple[Row, Row, Row], tuple[Row, Row, Row]]
"""By direction (egress, ingress) and kind of peer."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """What applies to a subject."""

    number: int
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class Desired:
    """What the maps must hold. Addresses are 16 bytes, IPv4 as v4-mapped IPv6, prefixes 0 to 128."""

    ipcache: Mapping[tuple[bytes, int], Identity] = field(default_factory=dict)
    sets: Mapping[str, PolicySet] = field(default_factory=dict)
    """By the subject's UID."""
    rows: Mapping[tuple[int, int, int], Row] = field(default_factory=dict)
    """(set, direction, identity), where it is not the set's default."""
    ports: Mapping[tuple[int, int, int, int], Answer] = field(default_factory=dict)
    """(row, protocol, port, bits): the ports that share the upper ``bits`` bits of ``port``."""
    rules: Mapping[int, tuple[PolicyRef, ...]] = field(default_factory=dict)


OPEN: Final = Row(0, 0, Verdict.ALLOW, Reason.NO_POLICY)
_OWN_NODE: Final = Row(0, 0, Verdict.ALLOW, Reason.NODE)

Term = tuple[str, Selector | None, Selector | None] | IPBlock
"""(namespace where the namespace selector is absent, namespace selector, pod selector), or a block."""
Named = tuple[tuple[str, Protocol, tuple[int, ...]], ...]
"""(port name, protocol, its numbers on a pod)."""


@dataclass(frozen=True, slots=True)
class _Class:
    """An equivalence class of peers."""

    kind: int
    terms: frozenset[Term]
    named: Named = ()
    own: bool = False
    """The own node."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """What decides about a subject's traffic: its policies, and the numbers of its own named ports."""

    policies: tuple[NetworkPolicy, ...]
    named: Named


class Compiler:
    """Compiles again and again with the same numbers."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def compile(self, view: PolicyView, subjects: Sequence[Pod]) -> Desired:
        """The maps' content for ``subjects``, the local pods whose interfaces are known."""
        build = _Build(self._numbers, view, subjects)
        desired = build.desired()
        self._numbers.flush()
        return desired


class _Build:
    def __init__(self, numbers: Numbers, view: PolicyView, subjects: Sequence[Pod]) -> None:
        self._numbers = numbers
        self._view = view
        self._subjects = {pod.uid: _subject(view, pod) for pod in subjects}
        self._policies = {policy for subject in self._subjects.values() for policy in subject.policies}
        self._terms = {
            term
            for policy in self._policies
            for rule in (policy.ingress or ()) + (policy.egress or ())
            for term in _terms(policy, rule)
        }
        self._names = _named_ports(self._policies)
        self._rules: dict[int, tuple[PolicyRef, ...]] = {}
        self._ports: dict[tuple[int, int, int, int], Answer] = {}
        self._rows: dict[tuple[_Subject, int, frozenset[Term], Named], Row] = {}

    def desired(self) -> Desired:
        classes = self._classify()
        ipcache = {block: Identity(self._identity(found), found.kind) for block, found in classes.items()}
        members = {self._identity(found): found for found in classes.values()}
        sets, rows = {}, {}
        numbers: dict[_Subject, PolicySet] = {}
        for uid, subject in self._subjects.items():
            if subject not in numbers:
                numbers[subject] = PolicySet(self._set(subject), self._defaults(subject))
                rows.update(self._rows_of(subject, numbers[subject], members))
            sets[uid] = numbers[subject]
        return Desired(ipcache, sets, rows, self._ports, self._rules)

    # --- peers

    def _classify(self) -> dict[tuple[bytes, int], _Class]:
        blocks = _Blocks(term for term in self._terms if isinstance(term, IPBlock))
        found = {key: _Class(WORLD, terms) for key, terms in blocks.items()}
        own = self._view.nodes.get(Name("", self._view.own_node))
        for node in self._view.nodes.values():
            for ip in node.ips:
                found[host_key(ip)] = _Class(NODE, blocks.terms_of(ip), own=node is own)
        by_labels: dict[tuple[str, frozenset[tuple[str, str]]], frozenset[Term]] = {}
        for pod in self._view.pods.values():
            if pod.host_network or pod.terminated or not pod.ips:
                continue
            labels = (pod.namespace, frozenset(pod.labels.items()))
            if labels not in by_labels:
                by_labels[labels] = self._selected(pod.namespace, pod.labels)
            named = _resolved(pod, self._names[Direction.EGRESS])
            for ip in pod.ips:
                found[host_key(ip)] = _Class(POD, by_labels[labels] | blocks.terms_of(ip), named)
        return found

    def _selected(self, namespace: str, labels: Labels) -> frozenset[Term]:
        """The terms that select pods of these labels. Asked once for all pods that share them."""
        found = self._view.namespaces.get(Name("", namespace))
        return frozenset(
            term
            for term in self._terms
            if not isinstance(term, IPBlock)
            and (term[0] == namespace if term[1] is None else found and selectors.matches(term[1], found.labels))
            and (term[2] is None or selectors.matches(term[2], labels))
        )

    def _identity(self, found: _Class) -> int:
        terms = sorted(repr(term) for term in found.terms)
        return self._numbers.of("identity", _digest(found.kind, found.own, terms, found.named))

    # --- sets

    def _set(self, subject: _Subject) -> int:
        return self._numbers.of("set", _digest(subject))

    def _defaults(self, subject: _Subject) -> Defaults:
        universal = frozenset(term for term in self._terms if _is_universal(term))

        def kinds(direction: Direction) -> tuple[Row, Row, Row]:
            nobody = self._row(subject, direction, _Class(WORLD, frozenset()))
            return self._row(subject, direction, _Class(POD, universal)), nobody, nobody

        return kinds(Direction.EGRESS), kinds(Direction.INGRESS)

    def _rows_of(
        self, subject: _Subject, policy_set: PolicySet, members: Mapping[int, _Class]
    ) -> dict[tuple[int, int, int], Row]:
        rows = {}
        for direction in Direction:
            for number, peer in members.items():
                row = self._row(subject, direction, peer)
                if row != policy_set.defaults[direction][peer.kind]:
                    rows[policy_set.number, int(direction), number] = row
        return rows

    # --- rows

    def _row(self, subject: _Subject, direction: Direction, peer: _Class) -> Row:
        if direction is Direction.EGRESS and peer.own:
            return _OWN_NODE
        # An egress rule's names mean the peer's ports, an ingress rule's the subject's own.
        named = peer.named if direction is Direction.EGRESS else subject.named
        key = (subject, int(direction), peer.terms, named)
        if key not in self._rows:
            self._rows[key] = self._make_row(subject, direction, peer.terms, named)
        return self._rows[key]

    def _make_row(self, subject: _Subject, direction: Direction, terms: frozenset[Term], named: Named) -> Row:
        isolating = [(policy, _rules(policy, direction)) for policy in subject.policies]
        isolating = [(policy, rules) for policy, rules in isolating if rules is not None]
        if not isolating:
            return OPEN
        everything: set[PolicyRef] = set()
        ranges: dict[int, list[tuple[int, int, PolicyRef]]] = defaultdict(list)
        for policy, rules in isolating:
            for index, rule in enumerate(rules or ()):
                if rule.peers and terms.isdisjoint(_terms(policy, rule)):
                    continue
                ref = PolicyRef("NetworkPolicy", policy.namespace, policy.name, index)
                if not rule.ports:
                    everything.add(ref)
                for port in rule.ports:
                    ranges[port.protocol] += [(low, high, ref) for low, high in _numbers_of(port, named)]
        number = self._port_entries(everything, ranges)
        if everything:
            return Row(number, self._rule(everything), Verdict.ALLOW, Reason.POLICY)
        deniers = {PolicyRef("NetworkPolicy", policy.namespace, policy.name) for policy, _ in isolating}
        return Row(number, self._rule(deniers), Verdict.DENY, Reason.DEFAULT_DENY)

    def _port_entries(
        self, everything: Iterable[PolicyRef], ranges: Mapping[int, list[tuple[int, int, PolicyRef]]]
    ) -> int:
        """The row number under which the ports stand, 0 where there are none. Each names all that allow it."""
        entries = {
            (protocol, port, bits): Answer(Verdict.ALLOW, Reason.POLICY, self._rule({*everything, *refs}))
            for protocol, wanted in sorted(ranges.items())
            for low, high, refs in segments(wanted)
            for port, bits in prefixes(low, high)
        }
        if not entries:
            return 0
        number = self._numbers.of("row", _digest(sorted(entries.items())))
        self._ports.update({(number, *key): answer for key, answer in entries.items()})
        return number

    def _rule(self, refs: Iterable[PolicyRef]) -> int:
        listed = tuple(sorted(refs, key=order))
        meaning = msgspec.to_builtins(listed)
        number = self._numbers.of("rule", _digest(meaning), list(meaning))
        self._rules[number] = listed
        return number


class _Blocks:
    """CIDRs and their exceptions: each is a prefix, and of an address the longest one says which blocks hold it."""

    def __init__(self, blocks: Iterable[IPBlock]) -> None:
        given = set(blocks)
        cidrs = {cidr for block in given for cidr in (block.cidr, *block.excepts)}
        self._terms = {_network_key(cidr): frozenset(block for block in given if _holds(block, cidr)) for cidr in cidrs}
        self._lengths = sorted({length for _, length in self._terms}, reverse=True)

    def items(self) -> Iterable[tuple[tuple[bytes, int], frozenset[Term]]]:
        return self._terms.items()

    def terms_of(self, ip: str) -> frozenset[Term]:
        address, _ = host_key(ip)
        number = int.from_bytes(address, "big")
        for length in self._lengths:
            masked = (number >> (128 - length) << (128 - length)).to_bytes(16, "big")
            if (found := self._terms.get((masked, length))) is not None:
                return found
        return frozenset()


def lookup(desired: Desired, uid: str, direction: Direction, peer: str, protocol: int, port: int) -> Answer:
    """What the kernel answers, by the same steps: address, row or the set's default, longest port prefix."""
    number = int.from_bytes(host_key(peer)[0], "big")
    identity = Identity(0, WORLD)
    for length in range(128, -1, -1):
        masked = (number >> (128 - length) << (128 - length)).to_bytes(16, "big")
        if (masked, length) in desired.ipcache:
            identity = desired.ipcache[masked, length]
            break
    policy_set = desired.sets[uid]
    row = desired.rows.get(
        (policy_set.number, int(direction), identity.number), policy_set.defaults[direction][identity.kind]
    )
    for bits in range(16, -1, -1) if row.ports else ():
        answer = desired.ports.get((row.ports, protocol, port >> (16 - bits) << (16 - bits), bits))
        if answer is not None:
            return answer
    return Answer(row.verdict, row.reason, row.rule)


def host_key(ip: str) -> tuple[bytes, int]:
    """The ipcache key of one address."""
    address = ipaddress.ip_address(ip)
    return (address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed), 128


def _network_key(cidr: str) -> tuple[bytes, int]:
    network = ipaddress.ip_network(cidr)
    address, _ = host_key(str(network.network_address))
    return address, network.prefixlen + (96 if network.version == 4 else 0)


def _holds(block: IPBlock, cidr: str) -> bool:
    """Whether the block holds ``cidr``, but for longer prefixes inside it, which stand for themselves."""
    return _inside(cidr, block.cidr) and not any(_inside(cidr, hole) for hole in block.excepts)


def _inside(inner: str, outer: str) -> bool:
    small, large = ipaddress.ip_network(inner), ipaddress.ip_network(outer)
    return small.version == large.version and small.prefixlen >= large.prefixlen and small.network_address in large


def _subject(view: PolicyView, pod: Pod) -> _Subject:
    policies = sorted(
        (
            policy
            for policy in view.policies.values()
            if any(isolates(policy, pod, direction) for direction in Direction)
        ),
        key=lambda policy: policy.key,
    )
    return _Subject(tuple(policies), _resolved(pod, _named_ports(policies)[Direction.INGRESS]))


def _rules(policy: NetworkPolicy, direction: Direction) -> tuple[Rule, ...] | None:
    return policy.egress if direction is Direction.EGRESS else policy.ingress


def _terms(policy: NetworkPolicy, rule: Rule) -> list[Term]:
    return [_term(policy, peer) for peer in rule.peers]


def _term(policy: NetworkPolicy, peer: Peer) -> Term:
    if peer.ip_block is not None:
        return peer.ip_block
    return ("" if peer.namespaces is not None else policy.namespace, peer.namespaces, peer.pods)


def _is_universal(term: Term) -> bool:
    if isinstance(term, IPBlock) or term[1] is None or term[1].requirements:
        return False
    return term[2] is None or not term[2].requirements


def _named_ports(policies: Iterable[NetworkPolicy]) -> dict[Direction, frozenset[tuple[str, Protocol]]]:
    return {
        direction: frozenset(
            (port.port, port.protocol)
            for policy in policies
            for rule in _rules(policy, direction) or ()
            for port in rule.ports
            if isinstance(port.port, str)
        )
        for direction in Direction
    }


def _resolved(pod: Pod, names: Iterable[tuple[str, Protocol]]) -> Named:
    found = ((name, protocol, tuple(sorted(resolve(pod, name, protocol)))) for name, protocol in sorted(names))
    return tuple(entry for entry in found if entry[2])


def _numbers_of(port: PolicyPort, named: Named) -> list[tuple[int, int]]:
    """The ranges that a NetworkPolicyPort means."""
    if port.port is None:
        return [(0, 65535)]
    if isinstance(port.port, str):
        return [
            (number, number)
            for name, protocol, numbers in named
            if name == port.port and protocol is port.protocol
            for number in numbers
        ]
    return [(port.port, port.end_port or port.port)]


def _digest(*content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
