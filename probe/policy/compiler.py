"""Compiles the cluster's policies to what the kernel's maps must hold, for the pods of one node. Pure, but for numbers.

Peers that no rule in force tells apart are one *identity* (:mod:`probe.policy.identities`); every address maps to its
identity. A
*set* is what applies to a subject; subjects with the same policies share it. For a set, a direction and an identity
there is a *row*: the answer for every port that no port entry tells otherwise. Tiers, priorities, audit, the union of
rules, their port ranges and names are flattened (:mod:`probe.policy.flatten`); the kernel compares nothing.

Sets, identities and rows are numbered by their content, so that nothing ever changes under a number, and equal input
gives equal numbers. The compiler keeps what it made: a compilation costs what changed since the last one, and a walk
over the objects' names.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from enrich.model import ClusterNetworkPolicy, Name, Namespace, NetworkPolicy, Node, Pod
from enrich.policy.decide import Direction, PolicyView
from probe.ledger import Ledger
from probe.policy.desired import Desired
from probe.policy.identities import ClusterChanges, Identities
from probe.policy.peer_selectors import NamedPortNumbers, PeerSelectors, PortName, resolve_named_ports
from probe.policy.policy_entries import PolicyEntries, PolicySetInUse
from probe.policy.ruleset import (
    AppliedPolicy,
    CompiledPolicy,
    Ruleset,
    build_ruleset,
    compile_policy,
    digest,
    named_ports,
)
from probe.policy.selection import PolicySelection

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Seen:
    """The objects as the last compilation saw them; the caller's mappings may be others by now."""

    pods: dict[Name, Pod] = field(default_factory=dict)
    namespaces: dict[Name, Namespace] = field(default_factory=dict)
    nodes: dict[Name, Node] = field(default_factory=dict)
    policies: dict[Name, NetworkPolicy] = field(default_factory=dict)
    cluster_policies: dict[Name, ClusterNetworkPolicy] = field(default_factory=dict)


class _Subject(NamedTuple):
    pod: Pod
    policies: tuple[AppliedPolicy, ...]
    named: NamedPortNumbers
    """Its own named ports, as far as the policies ask for them."""
    key: str
    """Of its set."""


class Compiler:
    """Compiles again and again with the same numbers. What it returns is its own, and changes with the next call."""

    def __init__(self, numbers: Ledger) -> None:
        self._numbers = numbers
        self.desired = Desired()
        self._seen = _Seen()
        self._selection = PolicySelection()
        self._terms = PeerSelectors()
        self._peers = Identities(numbers, self.desired.ipcache, self.desired.changed_keys.addresses)
        self._rows = PolicyEntries(numbers, self.desired)
        self._subjects: dict[str, _Subject] = {}
        self._in_force: dict[str, tuple[CompiledPolicy, set[str]]] = {}
        """A policy by its digest, and the keys of the sets that it is in."""
        self._sets: dict[str, PolicySetInUse] = {}
        self._family = 0

    @property
    def identity_count(self) -> int:
        """How many classes of peers there are."""
        return len(self._peers.classes)

    def compile(self, view: PolicyView, subjects: Sequence[Pod]) -> Desired:
        """The maps' content for ``subjects``, the local pods whose interfaces are known."""
        self._family = self._family or _usual_family(view)
        seen = self._seen
        namespaces = diff_and_update(seen.namespaces, view.namespaces)
        policies = diff_and_update(seen.policies, view.policies)
        cluster_policies = diff_and_update(seen.cluster_policies, view.cluster_policies)
        pods, nodes = diff_and_update(seen.pods, view.pods), diff_and_update(seen.nodes, view.nodes)
        elsewhere = self._selection.update(view, policies, cluster_policies)
        born, dead = self._select(view, subjects, elsewhere, {_name(pair) for pair in namespaces})
        sides = {key: self._enact(key, subject) for key, subject in born.items()}
        for key in dead:
            self._revoke(key)
        added, removed = self._terms.settle()
        came, went = self._peers.update(
            ClusterChanges(
                pods=pods,
                nodes=nodes,
                namespaces=seen.namespaces,
                relabelled=frozenset(_name(pair) for pair in namespaces if _labels(pair[0]) != _labels(pair[1])),
                own_node=view.own_node,
            ),
            {number: self._terms.by_number[number] for number in added},
            removed,
            self._terms.digests,
            self._names(),
        )
        for key in dead:
            self._rows.remove(self._sets.pop(key))
        self._rows.change(went, came)
        for key, subject in born.items():
            sources = tuple(source.digest for source in subject.policies)
            self._sets[key] = self._rows.add(key, sides[key], sources, self._family, self._peers.classes)
        self._assign()
        self._numbers.flush()
        return self.desired

    # --- who has which policies

    def _select(
        self, view: PolicyView, subjects: Sequence[Pod], elsewhere: set[str] | None, namespaces: set[str]
    ) -> tuple[dict[str, _Subject], set[str]]:
        """Find every subject's policies, where they may have changed. Sets that nobody had, and that nobody has."""
        now: dict[str, _Subject] = {}
        for pod in subjects:
            known = self._subjects.get(pod.uid)
            unchanged = elsewhere is not None and pod.namespace not in elsewhere | namespaces
            if known is not None and known.pod is pod and unchanged:
                now[pod.uid] = known
                continue
            policies = self._selection.of(view, pod)
            named = resolve_named_ports(pod.ports, named_ports((one.policy for one in policies), Direction.INGRESS))
            content = [one.digest for one in policies]
            now[pod.uid] = _Subject(pod, policies, named, digest(content, named, self._family))
        self._subjects = now
        by_key = {subject.key: subject for subject in now.values()}
        born = {key: subject for key, subject in by_key.items() if key not in self._sets}
        return born, self._sets.keys() - by_key.keys()

    def _enact(self, key: str, subject: _Subject) -> tuple[Ruleset, Ruleset]:
        """A set that nobody had: its policies are in force."""
        taken = []
        for source in subject.policies:
            if source.digest not in self._in_force:
                self._in_force[source.digest] = (compile_policy(source, self._terms), set())
            found, users = self._in_force[source.digest]
            users.add(key)
            taken.append(found)
        egress, ingress = (
            build_ruleset([part for one in taken if (part := one.parts[way]) is not None], way, subject.named)
            for way in Direction
        )
        return egress, ingress

    def _revoke(self, key: str) -> None:
        """A set that nobody has any more."""
        for source in self._sets[key].sources:
            found, users = self._in_force[source]
            users.discard(key)
            if not users:
                self._terms.release(found.terms)
                del self._in_force[source]

    def _names(self) -> list[PortName]:
        return sorted({name for found, _ in self._in_force.values() for name in found.named})

    def _assign(self) -> None:
        """Every subject its set."""
        table = self.desired.policy_sets
        for uid in table.keys() - self._subjects.keys():
            del table[uid]
        for uid, subject in self._subjects.items():
            table[uid] = self._sets[subject.key].policy_set


def diff_and_update(seen: dict[K, V], now: Mapping[K, V]) -> list[tuple[V | None, V | None]]:
    """Bring ``seen`` up to date. What differed, each as it was and as it is.

    The index keeps its order but for what comes and goes: as long as it does, no key is hashed.
    """
    if len(now) >= len(seen):
        moved = [at for at, same in enumerate(map(operator.is_, seen.values(), now.values())) if not same]
        if not moved and len(now) == len(seen):
            return []
        keys, after = list(seen), list(now.items())
        if all(keys[at] == after[at][0] for at in moved):
            changed = [after[at] for at in moved] + after[len(seen) :]
            differing = [(seen.get(key), new) for key, new in changed]
            seen.update(changed)
            return [(old, new) for old, new in differing if old != new]
    found: list[tuple[V | None, V | None]] = [
        (old, new) for key, new in now.items() if (old := seen.get(key)) is not new and old != new
    ]
    found += [(old, None) for key, old in seen.items() if key not in now]
    seen.clear()
    seen.update(now)
    return found


def _name(pair: tuple[Namespace | None, Namespace | None]) -> str:
    return (pair[0] or pair[1]).name  # type: ignore[union-attr]  # one of them is there


def _labels(namespace: Namespace | None) -> Mapping[str, str] | None:
    return None if namespace is None else namespace.labels


def _usual_family(view: PolicyView) -> int:
    """The family of most pods; 0 while there are none."""
    four = six = 0
    for pod in view.pods.values():
        six += any(":" in ip for ip in pod.ips)
        four += any(":" not in ip for ip in pod.ips)
    return 0 if not four and not six else 6 if six > four else 4
