"""The rows of the sets in force: what is written for which peers, and what nobody needs any more.

A set has a default row a direction and kind of peer; a peer whose row is another has it written. The default of pods is
that of a pod which no rule names, of the family that most pods have: rules for every pod, or for 0.0.0.0/0, write no
row a peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from enrich.wire.batch import PolicyRef
from probe.ledger import Ledger
from probe.policy.desired import Desired, PolicyEntry, PolicyKey, PolicySet, PortEntry, PortKey
from probe.policy.flatten import FlatDecision, MatchedRules, flatten, matched_rules
from probe.policy.identities import IdentityInUse
from probe.policy.peer_selectors import PeerTraits
from probe.policy.port_prefixes import port_prefixes
from probe.policy.ruleset import Ruleset, digest

_NOBODY: Final = PeerTraits(frozenset())
_Content = tuple[list[tuple[int, int, int, int, int, int]], PortEntry]
"""Of a row: (protocol, low, high, verdict, reason, rule) of ports, and the answer for all others."""


@dataclass(slots=True)
class _SharedEntry:
    row: PolicyEntry
    users: int = 0
    """Identities and defaults that have it."""


@dataclass(slots=True, eq=False)
class _Direction:
    """A set in one direction."""

    side: Ruleset
    by_match: dict[PeerTraits, _SharedEntry] = field(default_factory=dict)
    defaults: tuple[PeerTraits, PeerTraits, PeerTraits] = (_NOBODY, _NOBODY, _NOBODY)
    """By kind of peer."""
    own: dict[int, PeerTraits] = field(default_factory=dict)
    """By identity, where the row is not the default."""
    flattened: dict[MatchedRules, _Content] = field(default_factory=dict)
    """While rows are written: many peers that rules name are the same to all the rules together."""


@dataclass(slots=True, eq=False)
class PolicySetInUse:
    """What applies to a subject."""

    halves: tuple[_Direction, _Direction]
    sources: tuple[str, ...]
    """Digests of its policies."""
    policy_set: PolicySet


class PolicyEntries:
    """Writes the rows, ports and rules of ``desired``, and says what it touched."""

    def __init__(self, numbers: Ledger, desired: Desired) -> None:
        self._numbers = numbers
        self._desired = desired
        self._ports: dict[int, list[PortKey]] = {}
        self._port_users: dict[int, int] = {}
        self._rule_of: dict[tuple[PolicyRef, ...], int] = {}
        self._sets: list[PolicySetInUse] = []

    def add(
        self,
        key: str,
        sides: tuple[Ruleset, Ruleset],
        sources: tuple[str, ...],
        family: int,
        peers: Iterable[IdentityInUse],
    ) -> PolicySetInUse:
        """A set that comes into force, known by ``key``; ``family``: the one that most pods have."""
        pod = _NOBODY._replace(pod=True, family=family)
        halves = []
        for side in sides:
            half = _Direction(side, defaults=(side.match(pod), side.match(_NOBODY), side.match(_NOBODY)))
            for match in half.defaults:
                self._use(half, match)
            halves.append(half)
        egress, ingress = ([half.by_match[match].row for match in half.defaults] for half in halves)
        policy_set = PolicySet(
            self._numbers.number_of("set", key),
            ((egress[0], egress[1], egress[2]), (ingress[0], ingress[1], ingress[2])),
        )
        made = PolicySetInUse((halves[0], halves[1]), sources, policy_set)
        self._sets.append(made)
        self._write_all(made, peers)
        return made

    def remove(self, gone: PolicySetInUse) -> None:
        """A set that nobody has any more."""
        self._sets.remove(gone)
        for half in gone.halves:
            for identity in half.own:
                self._drop((gone.policy_set.number, int(half.side.direction), identity))
            for use in half.by_match.values():
                self._leave_ports(use.row.port_list)

    def change(self, went: Sequence[IdentityInUse], came: Sequence[IdentityInUse]) -> None:
        """Classes of peers that went and came."""
        for one in self._sets:
            for half in one.halves:
                for peer in went:
                    match = half.own.pop(peer.identity.number, None)
                    if match is not None:
                        self._drop((one.policy_set.number, int(half.side.direction), peer.identity.number))
                        self._release(half, match)
            self._write_all(one, came)

    def _write_all(self, one: PolicySetInUse, peers: Iterable[IdentityInUse]) -> None:
        for peer in peers:
            self._write(one, peer)
        for half in one.halves:
            half.flattened.clear()

    def _write(self, one: PolicySetInUse, peer: IdentityInUse) -> None:
        for half in one.halves:
            if half.side.treats_alike(peer.match, half.defaults[peer.identity.kind]):
                continue
            match = half.side.match(peer.match)
            default = half.defaults[peer.identity.kind]
            if match == default:
                continue
            row = self._use(half, match)
            if row == half.by_match[default].row:
                self._release(half, match)
                continue
            key = (one.policy_set.number, int(half.side.direction), peer.identity.number)
            half.own[peer.identity.number] = match
            self._desired.policy_entries[key] = row
            self._desired.changed_keys.policy_entries.add(key)

    def _drop(self, key: PolicyKey) -> None:
        del self._desired.policy_entries[key]
        self._desired.changed_keys.policy_entries.add(key)

    # --- rows by what their side sees of a peer

    def _use(self, half: _Direction, match: PeerTraits) -> PolicyEntry:
        found = half.by_match.get(match)
        if found is None:
            found = half.by_match[match] = _SharedEntry(self._row(half, match))
        found.users += 1
        return found.row

    def _release(self, half: _Direction, match: PeerTraits) -> None:
        found = half.by_match[match]
        found.users -= 1
        if not found.users:
            del half.by_match[match]
            self._leave_ports(found.row.port_list)

    def _row(self, half: _Direction, match: PeerTraits) -> PolicyEntry:
        seen = matched_rules(half.side, match)
        found = half.flattened.get(seen)
        if found is None:
            found = half.flattened[seen] = self._content(half.side, seen)
        parts, answer = found
        return PolicyEntry(self._use_ports(parts), answer.rule, answer.verdict, answer.reason)

    def _content(self, side: Ruleset, seen: MatchedRules) -> _Content:
        other, ranges = flatten(side, seen)
        parts = [(protocol, low, high, *self._answer(found)) for protocol, low, high, found in ranges]
        return parts, self._answer(other)

    def _use_ports(self, parts: Sequence[tuple[int, int, int, int, int, int]]) -> int:
        """The number under which the ports stand, 0 where there are none."""
        if not parts:
            return 0
        number = self._numbers.number_of("row", digest([tuple(map(int, part)) for part in parts]))
        self._port_users[number] = self._port_users.get(number, 0) + 1
        if number not in self._ports:
            keys = self._ports[number] = []
            for protocol, low, high, *answer in parts:
                for port, bits in port_prefixes(low, high):
                    keys.append((number, protocol, port, bits))
                    self._desired.port_entries[keys[-1]] = PortEntry(*answer)
            self._desired.changed_keys.port_entries.update(keys)
        return number

    def _leave_ports(self, number: int) -> None:
        if not number:
            return
        self._port_users[number] -= 1
        if not self._port_users[number]:
            del self._port_users[number]
            for key in self._ports.pop(number):
                del self._desired.port_entries[key]
                self._desired.changed_keys.port_entries.add(key)

    def _answer(self, found: FlatDecision) -> PortEntry:
        return PortEntry(found.verdict, found.reason, self._rule(found.refs) if found.refs else 0)

    def _rule(self, refs: tuple[PolicyRef, ...]) -> int:
        number = self._rule_of.get(refs)
        if number is None:
            meaning = msgspec.to_builtins(refs)
            number = self._rule_of[refs] = self._numbers.number_of("rule", digest(meaning), list(meaning))
            self._desired.rules[number] = refs
        return number
