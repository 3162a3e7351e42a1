"""Compiles the cluster's policies to the content of the kernel's policy maps, for the pods of one node.

Theory of operation. Take the namespace ``shop`` with four pods and one policy; db-0 runs on this node, n1:

    db-0    10.0.0.2  app=db           NetworkPolicy shop/db, podSelector app=db, policyTypes Ingress
    web-0   10.0.0.3  app=web            rule 0: from podSelector app=web, port TCP 5432
    web-1   10.0.0.4  app=web            rule 1: from ipBlock 203.0.113.0/24, every port
    cron-0  10.0.0.5  app=cron
    node n1 192.168.0.1

1. *Peer selectors.* The policy names peers in two ways: "pods app=web of shop" and "203.0.113.0/24"
   (:mod:`probe.policy.peer_selectors`).
2. *Identities.* Addresses that the peer selectors cannot tell apart share an identity (:mod:`probe.policy.identities`).
   They go into ``addresses``, where the longest prefix applies (numbers, here and below, are examples):

       10.0.0.3/32, 10.0.0.4/32    identity 1, POD      selected by app=web
       203.0.113.0/24              identity 2, WORLD    in the block
       10.0.0.2/32, 10.0.0.5/32    identity 3, POD      pods that no rule names
       192.168.0.1/32              identity 4, NODE     the node of the subjects
       every other address         identity 0, WORLD

3. *Policy sets.* The subject db-0 has the policies {shop/db}. Every subject with the same policies gets the same policy
   set, here number 1. A set has two *rulesets*, egress and ingress (:mod:`probe.policy.ruleset`).
4. *Flattening.* For each ruleset and each identity that its rules can tell from the default, tiers, priorities, audit,
   the union of rules and overlapping port ranges are resolved to one decision for each range of ports
   (:mod:`probe.policy.flatten`).
5. *Entries.* The decisions become policy entries and port entries (:mod:`probe.policy.policy_entries`):

       defaults of set 1   egress: allow, no_policy; ingress: deny, default_deny, rule 1 (the policy)
       policy entries      (set 1, ingress, identity 1): port list 1, else deny, default_deny, rule 1
                           (set 1, ingress, identity 2): allow, policy, rule 3 (the policy's rule 1)
                           (set 1, egress,  identity 4): allow, node: a pod always reaches its node
       port entries        (port list 1, TCP 5432, 16 bits): allow, policy, rule 2 (the policy's rule 0)

The kernel then decides with three lookups and compares nothing: address to identity, (set, direction, identity) to
policy entry, (port list, protocol, port) to port entry. A connection from web-1 to db-0:5432 finds identity 1, then
port list 1, then "allow, rule 2"; the verdict carries the rule number, and the record names shop/db and its rule 0.

Numbers come from the ledger, by content. So nothing ever changes under a number, equal input gives equal numbers after
a restart, and a changed policy makes new sets, lists and rules beside the old ones until the endpoints have switched.

The compiler keeps what it made. A compilation costs what changed since the last one, plus one pass over the objects to
find that out. It is pure except for the ledger.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from enrich.model import ClusterNetworkPolicy, Name, Namespace, NetworkPolicy, Node, Pod
from enrich.policy.matching import Direction, PolicyView
from probe.ledger import Ledger
from probe.policy.desired import CLOSED, Desired
from probe.policy.identities import ClusterChanges, Identities, SelectorChanges
from probe.policy.peer_selectors import NamedPortNumbers, PeerSelectors, resolve_named_ports
from probe.policy.policy_entries import PolicyEntries, PolicySetInUse
from probe.policy.ruleset import (
    AppliedPolicy,
    CompiledPolicy,
    Ruleset,
    build_ruleset,
    compile_policy,
    digest,
    port_names,
)
from probe.policy.selection import PolicySelection

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _CompiledObjects:
    """The objects of the last compilation. They are copies, because the caller's mappings change."""

    pods: dict[Name, Pod] = field(default_factory=dict)
    namespaces: dict[Name, Namespace] = field(default_factory=dict)
    nodes: dict[Name, Node] = field(default_factory=dict)
    policies: dict[Name, NetworkPolicy] = field(default_factory=dict)
    cluster_policies: dict[Name, ClusterNetworkPolicy] = field(default_factory=dict)


class Subject(NamedTuple):
    """A local pod and the policies that apply to it."""

    pod: Pod
    policies: tuple[AppliedPolicy, ...]
    named_ports: NamedPortNumbers
    """Those of its named ports that its policies' ingress rules name."""
    set_key: str
    """The key of its policy set, a digest of all that the set depends on."""


class _PolicyInForce(NamedTuple):
    compiled: CompiledPolicy
    set_keys: set[str]
    """The policy sets that contain it."""


class Compiler:
    """Compiles state after state of one cluster. :attr:`desired` is the same object each time, changed in place."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.desired = Desired()
        self._last = _CompiledObjects()
        self._selection = PolicySelection()
        self._peer_selectors = PeerSelectors()
        self._identities = Identities(ledger, self.desired.addresses, self.desired.changed_keys.addresses)
        self._entries = PolicyEntries(ledger, self.desired)
        self._subjects: dict[str, Subject] = {}
        """By UID."""
        self._in_force: dict[str, _PolicyInForce] = {}
        """By the policy's digest."""
        self._sets: dict[str, PolicySetInUse] = {}
        """By set key."""
        self._family = 0
        """The family that most pods have, 4 or 6; 0 until a pod has an address. It never changes afterwards."""

    @property
    def subjects(self) -> Collection[Subject]:
        """The subjects of the last compilation, with their policies."""
        return self._subjects.values()

    @property
    def cidr_prefixes(self) -> int:
        """How many prefixes the IP blocks of the rules in force need in ``addresses``."""
        return self._identities.cidr_prefixes

    def numbers_of_sets(self) -> dict[str, int]:
        """Return the numbers of the policy sets that are compiled, by set key."""
        return {key: in_use.policy_set.number for key, in_use in self._sets.items()}

    def size_of(self, key: str) -> dict[str, int]:
        """Return how many entries a compiled policy set needs in each policy map, whoever else needs them too."""
        in_use = self._sets[key]
        compiled = (self._in_force[policy].compiled for policy in in_use.policies)
        return {**self._entries.size_of(in_use), "addresses": sum(policy.prefixes for policy in compiled)}

    @property
    def identity_count(self) -> int:
        """How many identities the rules in force divide the peers into."""
        return len(self._identities.in_use)

    def compile(self, view: PolicyView, subjects: Sequence[Pod], closed: Collection[str] = ()) -> Desired:
        """Bring :attr:`desired` up to date for ``subjects``, the local pods whose interfaces are known.

        Policy sets whose keys are in ``closed`` are not compiled; their subjects are closed.
        """
        self._family = self._family or _usual_family(view)
        last = self._last
        namespaces = diff_and_update(last.namespaces, view.namespaces)
        policies = diff_and_update(last.policies, view.policies)
        cluster_policies = diff_and_update(last.cluster_policies, view.cluster_policies)
        pods, nodes = diff_and_update(last.pods, view.pods), diff_and_update(last.nodes, view.nodes)
        affected = self._selection.update(view, policies, cluster_policies)
        if affected is not None:
            affected |= {_name(pair) for pair in namespaces}
        new_sets, unused_sets = self._select_policies(view, subjects, affected, closed)
        # Acquire before release: a selector that an old and a new policy share keeps its number.
        rulesets = {key: self._put_in_force(key, subject) for key, subject in new_sets.items()}
        for key in unused_sets:
            self._withdraw(key)
        added, removed = self._peer_selectors.settle()
        appeared, disappeared = self._identities.update(
            ClusterChanges(
                pods=pods,
                nodes=nodes,
                namespaces=last.namespaces,
                relabelled=frozenset(_name(pair) for pair in namespaces if _labels(pair[0]) != _labels(pair[1])),
                own_node=view.own_node,
            ),
            SelectorChanges(
                added={number: self._peer_selectors.by_number[number] for number in added},
                removed=removed,
                digests=self._peer_selectors.digests,
                port_names=sorted(
                    {name for policy in self._in_force.values() for name in policy.compiled.egress_port_names}
                ),
            ),
        )
        for key in unused_sets:
            self._entries.remove_set(self._sets.pop(key))
        self._entries.update_identities(disappeared, appeared)
        for key, subject in new_sets.items():
            digests = tuple(policy.digest for policy in subject.policies)
            self._sets[key] = self._entries.add_set(key, rulesets[key], digests, self._family, self._identities.in_use)
        self._assign_sets()
        self._ledger.flush()
        return self.desired

    def forget(self, numbers: Mapping[str, Set[int]]) -> None:
        """Take notice that the ledger forgets these numbers, none of which is in :attr:`desired`."""
        self._entries.forget_rules(numbers.get("rule", set()))

    def _select_policies(
        self, view: PolicyView, subjects: Sequence[Pod], affected: set[str] | None, closed: Collection[str]
    ) -> tuple[dict[str, Subject], set[str]]:
        """Find the policies of each subject, again only in ``affected`` namespaces (None: in all).

        Return the policy sets that are new, each with one of its subjects, and the keys of those that became unused.
        """
        current: dict[str, Subject] = {}
        for pod in subjects:
            known = self._subjects.get(pod.uid)
            if known is not None and known.pod is pod and affected is not None and pod.namespace not in affected:
                current[pod.uid] = known
                continue
            policies = self._selection.policies_of(view, pod)
            names = port_names((applied.policy for applied in policies), Direction.INGRESS)
            named_ports = resolve_named_ports(pod.ports, names)
            digests = [applied.digest for applied in policies]
            current[pod.uid] = Subject(pod, policies, named_ports, digest(digests, named_ports, self._family))
        self._subjects = current
        by_key = {subject.set_key: subject for subject in current.values() if subject.set_key not in closed}
        new = {key: subject for key, subject in by_key.items() if key not in self._sets}
        return new, self._sets.keys() - by_key.keys()

    def _put_in_force(self, key: str, subject: Subject) -> tuple[Ruleset, Ruleset]:
        """Compile those policies of a new set that are not in force yet, and return the set's rulesets."""
        compiled = []
        for applied in subject.policies:
            if applied.digest not in self._in_force:
                self._in_force[applied.digest] = _PolicyInForce(compile_policy(applied, self._peer_selectors), set())
            in_force = self._in_force[applied.digest]
            in_force.set_keys.add(key)
            compiled.append(in_force.compiled)
        egress, ingress = (
            build_ruleset(
                [rules for policy in compiled if (rules := policy.directions[direction]) is not None],
                direction,
                subject.named_ports,
            )
            for direction in Direction
        )
        return egress, ingress

    def _withdraw(self, key: str) -> None:
        """Release the policies of an unused set that no other set contains."""
        for policy_digest in self._sets[key].policies:
            in_force = self._in_force[policy_digest]
            in_force.set_keys.discard(key)
            if not in_force.set_keys:
                self._peer_selectors.release(in_force.compiled.selectors)
                del self._in_force[policy_digest]

    def _assign_sets(self) -> None:
        table = self.desired.policy_sets
        for uid in table.keys() - self._subjects.keys():
            del table[uid]
        for uid, subject in self._subjects.items():
            in_use = self._sets.get(subject.set_key)
            table[uid] = CLOSED if in_use is None else in_use.policy_set


def diff_and_update(last: dict[K, V], current: Mapping[K, V]) -> list[tuple[V | None, V | None]]:
    """Make ``last`` equal to ``current``, and return each value that differed as (before, after).

    The index keeps the order of its objects. As long as only values differ, or objects were added at the end, the first
    branch compares by position and hashes no key; this is what makes a small change in a large cluster cheap.
    """
    if len(current) >= len(last):
        moved = [at for at, same in enumerate(map(operator.is_, last.values(), current.values())) if not same]
        if not moved and len(current) == len(last):
            return []
        keys, items = list(last), list(current.items())
        if all(keys[at] == items[at][0] for at in moved):
            changed = [items[at] for at in moved] + items[len(last) :]
            pairs = [(last.get(key), after) for key, after in changed]
            last.update(changed)
            return [(before, after) for before, after in pairs if before != after]
    found: list[tuple[V | None, V | None]] = [
        (before, after) for key, after in current.items() if (before := last.get(key)) is not after and before != after
    ]
    found += [(before, None) for key, before in last.items() if key not in current]
    last.clear()
    last.update(current)
    return found


def _name(pair: tuple[Namespace | None, Namespace | None]) -> str:
    return (pair[0] or pair[1]).name  # type: ignore[union-attr]  # one of the two is always there


def _labels(namespace: Namespace | None) -> Mapping[str, str] | None:
    return None if namespace is None else namespace.labels


def _usual_family(view: PolicyView) -> int:
    """Return the family that most pods have, 4 or 6; 0 while no pod has an address."""
    ipv4 = ipv6 = 0
    for pod in view.pods.values():
        ipv6 += any(":" in ip for ip in pod.ips)
        ipv4 += any(":" not in ip for ip in pod.ips)
    return 0 if not ipv4 and not ipv6 else 6 if ipv6 > ipv4 else 4
