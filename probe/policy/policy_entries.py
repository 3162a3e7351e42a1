"""Keeps the policy entries, port entries and rule numbers of the policy sets in use.

Theory of operation, for one policy set, one direction and all identities:

1. Each set has a default entry for each kind of identity. The default for pods is what a pod gets that no peer selector
   selects, in the family that most pods have. So a rule for every pod, or for 0.0.0.0/0, changes the default instead of
   adding an entry for each identity.
2. An identity that no rule can tell from the default (:meth:`Ruleset.treats_alike`) has no entry. Most have none.
3. For the others, the ruleset reduces the identity's traits to those that it can see. Identities with equal visible
   traits share one :class:`_SharedEntry`, and its content is flattened once.
4. The port ranges of a flattened policy are split into prefixes, and stored under a number that the ledger derives from
   their content: the *port list*. Equal port ranges, in any policy set, are stored once.
5. Everything is counted by use, and removed with its last user. An entry never changes under its number; a changed
   policy makes another set, other port lists and other rules beside the old ones, and the endpoints switch to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
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

_NO_TRAITS: Final = PeerTraits(frozenset())
"""A peer that no rule names and that is neither a pod nor of a family."""
_PortRange = tuple[int, int, int, int, int, int]
"""(protocol, first port, last port, verdict, reason, rule)."""
_EntryContent = tuple[list[_PortRange], PortEntry]
"""A flattened policy with rule numbers: the port ranges, and what applies to all other ports."""


@dataclass(slots=True)
class _SharedEntry:
    entry: PolicyEntry
    users: int = 0
    """How many identities and defaults use it."""


@dataclass(slots=True, eq=False)
class _DirectionEntries:
    """The entries of a policy set in one direction."""

    ruleset: Ruleset
    by_traits: dict[PeerTraits, _SharedEntry] = field(default_factory=dict)
    """By visible traits."""
    defaults: tuple[PeerTraits, PeerTraits, PeerTraits] = (_NO_TRAITS, _NO_TRAITS, _NO_TRAITS)
    """The visible traits of the default peer of each kind."""
    stored: dict[int, PeerTraits] = field(default_factory=dict)
    """The visible traits of the identities that have an entry of their own, by identity number."""
    flattened: dict[MatchedRules, _EntryContent] = field(default_factory=dict)
    """Memo while entries are added: different visible traits often match the same rules."""


@dataclass(slots=True, eq=False)
class PolicySetInUse:
    """A policy set that at least one subject has."""

    directions: tuple[_DirectionEntries, _DirectionEntries]
    policies: tuple[str, ...]
    """Digests of its policies."""
    policy_set: PolicySet


class PolicyEntries:
    """The writer of ``policy_entries``, ``port_entries`` and ``rules`` of a :class:`Desired`."""

    def __init__(self, ledger: Ledger, desired: Desired) -> None:
        self._ledger = ledger
        self._desired = desired
        self._port_keys: dict[int, list[PortKey]] = {}
        """By port list."""
        self._port_list_users: dict[int, int] = {}
        self._rule_numbers: dict[tuple[PolicyRef, ...], int] = {}
        self._sets: list[PolicySetInUse] = []

    def add_set(
        self,
        key: str,
        rulesets: tuple[Ruleset, Ruleset],
        policies: tuple[str, ...],
        family: int,
        identities: Iterable[IdentityInUse],
    ) -> PolicySetInUse:
        """Add a policy set with its entries. The ledger knows it by ``key``; most pods have ``family`` (4 or 6)."""
        default_pod = _NO_TRAITS._replace(pod=True, family=family)
        directions = []
        for ruleset in rulesets:
            defaults = tuple(map(ruleset.visible_traits, (default_pod, _NO_TRAITS, _NO_TRAITS)))
            entries = _DirectionEntries(ruleset, defaults=(defaults[0], defaults[1], defaults[2]))
            for traits in entries.defaults:
                self._acquire(entries, traits)
            directions.append(entries)
        egress, ingress = ([one.by_traits[traits].entry for traits in one.defaults] for one in directions)
        policy_set = PolicySet(
            self._ledger.number_of("set", key),
            ((egress[0], egress[1], egress[2]), (ingress[0], ingress[1], ingress[2])),
        )
        added = PolicySetInUse((directions[0], directions[1]), policies, policy_set)
        self._sets.append(added)
        self._add_identities(added, identities)
        return added

    def size_of(self, in_use: PolicySetInUse) -> dict[str, int]:
        """Return how many policy entries and port entries a policy set has, also those that others share."""
        directions = in_use.directions
        lists = {shared.entry.port_list for one in directions for shared in one.by_traits.values()} - {0}
        return {
            "policy_entries": sum(len(one.stored) for one in directions),
            "port_entries": sum(len(self._port_keys[number]) for number in lists),
        }

    def remove_set(self, removed: PolicySetInUse) -> None:
        """Remove a policy set that no subject has any more, with its entries."""
        self._sets.remove(removed)
        for entries in removed.directions:
            for identity in entries.stored:
                self._delete((removed.policy_set.number, int(entries.ruleset.direction), identity))
            for shared in entries.by_traits.values():
                self._release_port_list(shared.entry.port_list)

    def update_identities(self, disappeared: Sequence[IdentityInUse], appeared: Sequence[IdentityInUse]) -> None:
        """Remove and add the entries of identities that disappeared and appeared, in every policy set."""
        for policy_set in self._sets:
            for entries in policy_set.directions:
                for peer in disappeared:
                    traits = entries.stored.pop(peer.identity.number, None)
                    if traits is not None:
                        direction = int(entries.ruleset.direction)
                        self._delete((policy_set.policy_set.number, direction, peer.identity.number))
                        self._release(entries, traits)
            self._add_identities(policy_set, appeared)

    def _add_identities(self, policy_set: PolicySetInUse, identities: Iterable[IdentityInUse]) -> None:
        for peer in identities:
            self._add_identity(policy_set, peer)
        for entries in policy_set.directions:
            entries.flattened.clear()

    def _add_identity(self, policy_set: PolicySetInUse, peer: IdentityInUse) -> None:
        for entries in policy_set.directions:
            default = entries.defaults[peer.identity.kind]
            if entries.ruleset.treats_alike(peer.traits, default):
                continue
            traits = entries.ruleset.visible_traits(peer.traits)
            if traits == default:
                continue
            entry = self._acquire(entries, traits)
            if entry == entries.by_traits[default].entry:
                self._release(entries, traits)
                continue
            key = (policy_set.policy_set.number, int(entries.ruleset.direction), peer.identity.number)
            entries.stored[peer.identity.number] = traits
            self._desired.policy_entries[key] = entry
            self._desired.changed_keys.policy_entries.add(key)

    def _delete(self, key: PolicyKey) -> None:
        del self._desired.policy_entries[key]
        self._desired.changed_keys.policy_entries.add(key)

    # --- shared entries, by visible traits

    def _acquire(self, entries: _DirectionEntries, traits: PeerTraits) -> PolicyEntry:
        shared = entries.by_traits.get(traits)
        if shared is None:
            shared = entries.by_traits[traits] = _SharedEntry(self._entry(entries, traits))
        shared.users += 1
        return shared.entry

    def _release(self, entries: _DirectionEntries, traits: PeerTraits) -> None:
        shared = entries.by_traits[traits]
        shared.users -= 1
        if not shared.users:
            del entries.by_traits[traits]
            self._release_port_list(shared.entry.port_list)

    def _entry(self, entries: _DirectionEntries, traits: PeerTraits) -> PolicyEntry:
        matched = matched_rules(entries.ruleset, traits)
        content = entries.flattened.get(matched)
        if content is None:
            content = entries.flattened[matched] = self._content(entries.ruleset, matched)
        ranges, other = content
        return PolicyEntry(self._acquire_port_list(ranges), other.rule, other.verdict, other.reason)

    def _content(self, ruleset: Ruleset, matched: MatchedRules) -> _EntryContent:
        other, ranges = flatten(ruleset, matched)
        numbered = [(protocol, low, high, *self._port_entry(found)) for protocol, low, high, found in ranges]
        return numbered, self._port_entry(other)

    # --- port lists and rules, by content

    def _acquire_port_list(self, ranges: Sequence[_PortRange]) -> int:
        """Return the number of the port list with these ranges, 0 if there are none."""
        if not ranges:
            return 0
        number = self._ledger.number_of("port_list", digest([tuple(map(int, found)) for found in ranges]))
        self._port_list_users[number] = self._port_list_users.get(number, 0) + 1
        if number not in self._port_keys:
            keys = self._port_keys[number] = []
            for protocol, low, high, *entry in ranges:
                for port, bits in port_prefixes(low, high):
                    keys.append((number, protocol, port, bits))
                    self._desired.port_entries[keys[-1]] = PortEntry(*entry)
            self._desired.changed_keys.port_entries.update(keys)
        return number

    def _release_port_list(self, number: int) -> None:
        if not number:
            return
        self._port_list_users[number] -= 1
        if not self._port_list_users[number]:
            del self._port_list_users[number]
            for key in self._port_keys.pop(number):
                del self._desired.port_entries[key]
                self._desired.changed_keys.port_entries.add(key)

    def _port_entry(self, decision: FlatDecision) -> PortEntry:
        rule = self._rule_number(decision.refs) if decision.refs else 0
        return PortEntry(decision.verdict, decision.reason, rule)

    def forget_rules(self, numbers: Set[int]) -> None:
        """Forget these rules, which no entry has: the ledger is about to."""
        self._rule_numbers = {refs: number for refs, number in self._rule_numbers.items() if number not in numbers}
        for number in numbers & self._desired.rules.keys():
            del self._desired.rules[number]

    def _rule_number(self, refs: tuple[PolicyRef, ...]) -> int:
        """Return the number of a list of policies. The ledger keeps the list for verdicts that outlive this process."""
        number = self._rule_numbers.get(refs)
        if number is None:
            number = self._rule_numbers[refs] = number_of_rule(self._ledger, refs)
            self._desired.rules[number] = refs
        return number


def number_of_rule(ledger: Ledger, refs: tuple[PolicyRef, ...]) -> int:
    """Return the number that the ledger gives to a list of policies, with the list as its meaning."""
    meaning = msgspec.to_builtins(refs)
    return ledger.number_of("rule", digest(meaning), list(meaning))
