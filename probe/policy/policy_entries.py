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
from probe.policy.desired import Answer, Desired, PolicySet, PortKey, Row, RowKey
from probe.policy.flatten import Decided, Seen, flatten, seen_of
from probe.policy.identities import PeerClass
from probe.policy.peer_selectors import Match
from probe.policy.port_prefixes import prefixes
from probe.policy.ruleset import Side, digest

_NOBODY: Final = Match(frozenset())
_Content = tuple[list[tuple[int, int, int, int, int, int]], Answer]
"""Of a row: (protocol, low, high, verdict, reason, rule) of ports, and the answer for all others."""


@dataclass(slots=True)
class _Use:
    row: Row
    users: int = 0
    """Identities and defaults that have it."""


@dataclass(slots=True, eq=False)
class _Half:
    """A set in one direction."""

    side: Side
    by_match: dict[Match, _Use] = field(default_factory=dict)
    defaults: tuple[Match, Match, Match] = (_NOBODY, _NOBODY, _NOBODY)
    """By kind of peer."""
    own: dict[int, Match] = field(default_factory=dict)
    """By identity, where the row is not the default."""
    flattened: dict[Seen, _Content] = field(default_factory=dict)
    """While rows are written: many peers that rules name are the same to all the rules together."""


@dataclass(slots=True, eq=False)
class SetInForce:
    """What applies to a subject."""

    halves: tuple[_Half, _Half]
    sources: tuple[str, ...]
    """Digests of its policies."""
    policy_set: PolicySet


class Rows:
    """Writes the rows, ports and rules of ``desired``, and says what it touched."""

    def __init__(self, numbers: Ledger, desired: Desired) -> None:
        self._numbers = numbers
        self._desired = desired
        self._ports: dict[int, list[PortKey]] = {}
        self._port_users: dict[int, int] = {}
        self._rule_of: dict[tuple[PolicyRef, ...], int] = {}
        self._sets: list[SetInForce] = []

    def add(
        self, key: str, sides: tuple[Side, Side], sources: tuple[str, ...], family: int, peers: Iterable[PeerClass]
    ) -> SetInForce:
        """A set that comes into force, known by ``key``; ``family``: the one that most pods have."""
        pod = _NOBODY._replace(pod=True, family=family)
        halves = []
        for side in sides:
            half = _Half(side, defaults=(side.match(pod), side.match(_NOBODY), side.match(_NOBODY)))
            for match in half.defaults:
                self._use(half, match)
            halves.append(half)
        egress, ingress = ([half.by_match[match].row for match in half.defaults] for half in halves)
        policy_set = PolicySet(
            self._numbers.number_of("set", key),
            ((egress[0], egress[1], egress[2]), (ingress[0], ingress[1], ingress[2])),
        )
        made = SetInForce((halves[0], halves[1]), sources, policy_set)
        self._sets.append(made)
        self._write_all(made, peers)
        return made

    def remove(self, gone: SetInForce) -> None:
        """A set that nobody has any more."""
        self._sets.remove(gone)
        for half in gone.halves:
            for identity in half.own:
                self._drop((gone.policy_set.number, int(half.side.direction), identity))
            for use in half.by_match.values():
                self._leave_ports(use.row.ports)

    def change(self, went: Sequence[PeerClass], came: Sequence[PeerClass]) -> None:
        """Classes of peers that went and came."""
        for one in self._sets:
            for half in one.halves:
                for peer in went:
                    match = half.own.pop(peer.identity.number, None)
                    if match is not None:
                        self._drop((one.policy_set.number, int(half.side.direction), peer.identity.number))
                        self._release(half, match)
            self._write_all(one, came)

    def _write_all(self, one: SetInForce, peers: Iterable[PeerClass]) -> None:
        for peer in peers:
            self._write(one, peer)
        for half in one.halves:
            half.flattened.clear()

    def _write(self, one: SetInForce, peer: PeerClass) -> None:
        for half in one.halves:
            if half.side.is_blind(peer.match, half.defaults[peer.identity.kind]):
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
            self._desired.rows[key] = row
            self._desired.touched.rows.add(key)

    def _drop(self, key: RowKey) -> None:
        del self._desired.rows[key]
        self._desired.touched.rows.add(key)

    # --- rows by what their side sees of a peer

    def _use(self, half: _Half, match: Match) -> Row:
        found = half.by_match.get(match)
        if found is None:
            found = half.by_match[match] = _Use(self._row(half, match))
        found.users += 1
        return found.row

    def _release(self, half: _Half, match: Match) -> None:
        found = half.by_match[match]
        found.users -= 1
        if not found.users:
            del half.by_match[match]
            self._leave_ports(found.row.ports)

    def _row(self, half: _Half, match: Match) -> Row:
        seen = seen_of(half.side, match)
        found = half.flattened.get(seen)
        if found is None:
            found = half.flattened[seen] = self._content(half.side, seen)
        parts, answer = found
        return Row(self._use_ports(parts), answer.rule, answer.verdict, answer.reason)

    def _content(self, side: Side, seen: Seen) -> _Content:
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
                for port, bits in prefixes(low, high):
                    keys.append((number, protocol, port, bits))
                    self._desired.ports[keys[-1]] = Answer(*answer)
            self._desired.touched.ports.update(keys)
        return number

    def _leave_ports(self, number: int) -> None:
        if not number:
            return
        self._port_users[number] -= 1
        if not self._port_users[number]:
            del self._port_users[number]
            for key in self._ports.pop(number):
                del self._desired.ports[key]
                self._desired.touched.ports.add(key)

    def _answer(self, found: Decided) -> Answer:
        return Answer(found.verdict, found.reason, self._rule(found.refs) if found.refs else 0)

    def _rule(self, refs: tuple[PolicyRef, ...]) -> int:
        number = self._rule_of.get(refs)
        if number is None:
            meaning = msgspec.to_builtins(refs)
            number = self._rule_of[refs] = self._numbers.number_of("rule", digest(meaning), list(meaning))
            self._desired.rules[number] = refs
        return number
