"""Divides the addresses of the cluster into identities: classes of peers that no rule in force can tell apart.

Theory of operation:

1. The *traits* of an address (:class:`PeerTraits`) are all that a rule can depend on: the peer selectors that select
   it, whether it is a pod of a known namespace, its family, the numbers of its named ports, whether it is the node that
   the probe runs on. Addresses of one kind with equal traits are one identity.
2. A pod that holds an address, or a node, takes precedence over the IP blocks around the address; the CIDR lists that
   contain it are among its traits. An address outside the cluster has no entry of its own: the prefixes of the blocks
   in the rules have one each, and the rest of the world is identity 0. Blocks in the same lists are one identity.
3. A change marks the addresses *dirty* whose traits it may have changed; then only the dirty ones are computed again.
   The 500 pods of a Deployment are one identity, so a policy that names them costs one policy entry; a pod that joins
   them costs one entry.
4. The identity's number comes from the ledger, by kind and traits. Peer selectors count by their content, because
   their numbers differ from one process to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from enrich.model import IPBlock, Name, NamedPort, Namespace, Node, Pod
from enrich.policy import selectors
from probe.ledger import Ledger
from probe.policy.cidr_index import CidrIndex, hosts_inside, lists_of_blocks
from probe.policy.desired import NODE, POD, WORLD, AddressKey, Identity, family_of, host_key
from probe.policy.label_groups import LabelGroups
from probe.policy.peer_selectors import (
    CidrList,
    NamedPortNumbers,
    NodePeerSelector,
    PeerSelector,
    PeerTraits,
    PodPeerSelector,
    PortName,
    resolve_named_ports,
)
from probe.policy.ruleset import digest

_KindAndTraits = tuple[int, PeerTraits]
Holder = TypeVar("Holder", Pod, Node)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True, eq=False)
class IdentityInUse:
    """An identity that at least one prefix in ``addresses`` has."""

    identity: Identity
    traits: PeerTraits
    members: int = 0
    """How many prefixes have it."""


@dataclass(frozen=True, slots=True)
class ClusterChanges:
    """What changed between two states of the cluster, each object as (before, after)."""

    pods: Sequence[tuple[Pod | None, Pod | None]] = ()
    nodes: Sequence[tuple[Node | None, Node | None]] = ()
    namespaces: Mapping[Name, Namespace] = field(default_factory=dict)
    """All namespaces as they are now, changed or not."""
    relabelled: frozenset[str] = frozenset()
    """Namespaces that appeared, disappeared or have other labels."""
    own_node: str = ""


@dataclass(frozen=True, slots=True)
class SelectorChanges:
    """Which peer selectors and port names the rules in force use."""

    added: Mapping[int, PeerSelector]
    removed: Mapping[int, PeerSelector]
    digests: Mapping[int, bytes]
    """Of all peer selectors in use, by number."""
    port_names: list[PortName]
    """All port names in egress rules, sorted."""


class Identities:
    """The writer of ``addresses`` and of its changed keys."""

    def __init__(self, ledger: Ledger, addresses: dict[AddressKey, Identity], changed_keys: set[AddressKey]) -> None:
        self._ledger = ledger
        self._addresses, self._changed_keys = addresses, changed_keys
        self._label_groups = LabelGroups()
        self._cidr_index = CidrIndex({})
        self._cidr_lists: dict[int, frozenset[IPBlock]] = {}
        self._whole_families: frozenset[IPBlock] = frozenset()
        """Those of 0.0.0.0/0 and ::/0 that rules name. They are prefixes, but in no list."""
        self._lists_of: dict[IPBlock, frozenset[int]] = {}
        """The CIDR lists that each block is in."""
        self._node_selectors: dict[int, NodePeerSelector] = {}
        self._digests: Mapping[int, bytes] = {}
        self._port_names: list[PortName] = []
        self._named_ports: dict[tuple[NamedPort, ...], NamedPortNumbers] = {(): ()}
        """Memo: the port names in use, resolved on a pod's container ports."""
        self._pods_with_ports: dict[tuple[NamedPort, ...], set[Name]] = {}
        self._namespaces: Mapping[Name, Namespace] = {}
        self._pods: dict[Name, Pod] = {}
        self._pods_at: dict[AddressKey, dict[Name, Pod]] = {}
        self._nodes_at: dict[AddressKey, dict[Name, Node]] = {}
        self._identities: dict[_KindAndTraits, IdentityInUse] = {}
        self._identity_at: dict[AddressKey, IdentityInUse] = {}
        self._dirty: set[AddressKey] = set()
        self._own_node = ""

    @property
    def in_use(self) -> Collection[IdentityInUse]:
        """All identities that some prefix has."""
        return self._identities.values()

    @property
    def cidr_prefixes(self) -> int:
        """How many prefixes the IP blocks in the rules in force have."""
        return len(self._cidr_index.prefixes)

    def update(
        self, cluster: ClusterChanges, selector_changes: SelectorChanges
    ) -> tuple[list[IdentityInUse], list[IdentityInUse]]:
        """Apply changes to ``addresses``. Return the identities that appeared and those that disappeared."""
        self._digests = selector_changes.digests
        self._namespaces = cluster.namespaces
        self._update_label_groups(cluster, selector_changes)
        self._update_nodes(cluster, selector_changes)
        self._update_blocks(selector_changes)
        self._update_port_names(selector_changes.port_names)
        for before, after in cluster.pods:
            self._change_pod(before, after)
        return self._settle()

    # --- which addresses a change makes dirty

    def _update_label_groups(self, cluster: ClusterChanges, changes: SelectorChanges) -> None:
        added = {n: selector for n, selector in changes.added.items() if isinstance(selector, PodPeerSelector)}
        removed = {n for n, selector in changes.removed.items() if isinstance(selector, PodPeerSelector)}
        for pod in self._label_groups.update(cluster.namespaces, set(cluster.relabelled), added, removed):
            self._dirty.update(map(host_key, self._pods[pod].ips))
        for namespace in cluster.relabelled:
            # Whether its namespace is known is a trait of a pod, even where no selector depends on the labels.
            for pod in self._label_groups.pods_in(namespace):
                self._dirty.update(map(host_key, self._pods[pod].ips))

    def _change_pod(self, before: Pod | None, after: Pod | None) -> None:
        before, after = _if_address_holder(before), _if_address_holder(after)
        if before is not None:
            self._label_groups.remove(before)
            del self._pods[before.key]
            self._pods_with_ports[before.ports].discard(before.key)
            if not self._pods_with_ports[before.ports]:
                # Ports are given by whoever makes pods, so there may always be new ones.
                del self._pods_with_ports[before.ports]
                self._named_ports.pop(before.ports, None)
            self._dirty.update(_remove_holder(self._pods_at, before))
        if after is not None:
            self._label_groups.add(after)
            self._pods[after.key] = after
            self._pods_with_ports.setdefault(after.ports, set()).add(after.key)
            self._dirty.update(_add_holder(self._pods_at, after))

    def _update_nodes(self, cluster: ClusterChanges, changes: SelectorChanges) -> None:
        added = {n: selector for n, selector in changes.added.items() if isinstance(selector, NodePeerSelector)}
        removed = {n for n, selector in changes.removed.items() if isinstance(selector, NodePeerSelector)}
        if added or removed or cluster.own_node != self._own_node:
            self._own_node = cluster.own_node
            kept = {n: selector for n, selector in self._node_selectors.items() if n not in removed}
            self._node_selectors = kept | added
            self._dirty.update(self._nodes_at)
        for before, after in cluster.nodes:
            if before is not None:
                self._dirty.update(_remove_holder(self._nodes_at, before))
            if after is not None:
                self._dirty.update(_add_holder(self._nodes_at, after))

    def _update_blocks(self, changes: SelectorChanges) -> None:
        added = {n: selector.blocks for n, selector in changes.added.items() if isinstance(selector, CidrList)}
        removed = {n for n, selector in changes.removed.items() if isinstance(selector, CidrList)}
        families = frozenset(selector for selector in changes.added.values() if isinstance(selector, IPBlock))
        gone = frozenset(selector for selector in changes.removed.values() if isinstance(selector, IPBlock))
        if not added and not removed and not families and not gone:
            return
        self._cidr_lists = {n: blocks for n, blocks in self._cidr_lists.items() if n not in removed} | added
        self._whole_families = (self._whole_families - gone) | families
        lists_before, prefixes_before = self._lists_of, self._cidr_index.prefixes
        self._lists_of = lists_of_blocks(self._cidr_lists)
        self._cidr_index = CidrIndex(dict.fromkeys(self._whole_families, frozenset[int]()) | self._lists_of)
        self._dirty.update(_differing(prefixes_before, self._cidr_index.prefixes))
        blocks = _differing(lists_before, self._lists_of)
        self._dirty.update(hosts_inside(blocks, {*self._pods_at, *self._nodes_at}))

    def _update_port_names(self, names: list[PortName]) -> None:
        if names == self._port_names:
            return
        self._port_names = names
        self._named_ports = {
            ports: numbers for ports, numbers in self._named_ports.items() if ports in self._pods_with_ports
        }
        for ports, before in list(self._named_ports.items()):
            after = self._named_ports[ports] = resolve_named_ports(ports, names)
            if after != before:
                for pod in self._pods_with_ports[ports]:
                    self._dirty.update(map(host_key, self._pods[pod].ips))

    # --- the identities of dirty addresses

    def _settle(self) -> tuple[list[IdentityInUse], list[IdentityInUse]]:
        appeared: list[IdentityInUse] = []
        emptied: list[IdentityInUse] = []
        for key in self._dirty:
            before = self._identity_at.get(key)
            kind_and_traits = self._kind_and_traits(key)
            after = None
            if kind_and_traits is not None:
                after = self._identities.get(kind_and_traits)
                if after is None:
                    after = self._identities[kind_and_traits] = self._new_identity(*kind_and_traits)
                    appeared.append(after)
                after.members += 1
            if before is not None:
                before.members -= 1
                emptied += [before] if not before.members else []
            if after is before:
                continue
            self._changed_keys.add(key)
            if after is None:
                del self._identity_at[key], self._addresses[key]
            else:
                self._identity_at[key] = after
                self._addresses[key] = after.identity
        self._dirty.clear()
        # An identity may have lost its last member and then gained another.
        disappeared = [identity for identity in dict.fromkeys(emptied) if not identity.members]
        for identity in disappeared:
            del self._identities[identity.identity.kind, identity.traits]
        return [identity for identity in appeared if identity.members], disappeared

    def _new_identity(self, kind: int, traits: PeerTraits) -> IdentityInUse:
        selector_digests = sorted(self._digests[number] for number in traits.selectors)
        number = self._ledger.number_of("identity", digest(kind, selector_digests, *traits[1:]))
        return IdentityInUse(Identity(number, kind), traits)

    def _kind_and_traits(self, key: AddressKey) -> _KindAndTraits | None:
        """Return what a prefix is; None if it is neither a pod's, nor a node's, nor an IP block's or an exception's."""
        family = family_of(key)
        pods, nodes = self._pods_at.get(key), self._nodes_at.get(key)
        if not pods and not nodes:
            numbers = self._cidr_index.prefixes.get(key)
            return None if numbers is None else (WORLD, PeerTraits(numbers, family=family))
        blocks = self._cidr_index.lists_of(key[0])
        if pods:
            # Two pods claim one address while the API server still lists a former holder: the one started last has it.
            pod = max(pods.values(), key=lambda claimant: (claimant.started_ns, claimant.uid))
            named_ports = self._named_ports.get(pod.ports)
            if named_ports is None:
                named_ports = self._named_ports[pod.ports] = resolve_named_ports(pod.ports, self._port_names)
            numbers = self._label_groups.selectors_of(pod.key) | blocks
            return POD, PeerTraits(numbers, Name("", pod.namespace) in self._namespaces, family, named_ports)
        here = (nodes or {}).values()
        numbers = frozenset(
            number
            for number, selector in self._node_selectors.items()
            if any(selectors.matches(selector.nodes, node.labels) for node in here)
        )
        own_node = any(node.name == self._own_node for node in here)
        return NODE, PeerTraits(numbers | blocks, family=family, own_node=own_node)


def _add_holder(table: dict[AddressKey, dict[Name, Holder]], holder: Holder) -> list[AddressKey]:
    keys = [host_key(ip) for ip in holder.ips]
    for key in keys:
        table.setdefault(key, {})[holder.key] = holder
    return keys


def _remove_holder(table: dict[AddressKey, dict[Name, Holder]], holder: Holder) -> list[AddressKey]:
    keys = [host_key(ip) for ip in holder.ips]
    for key in keys:
        table.get(key, {}).pop(holder.key, None)
        if not table.get(key, True):
            del table[key]
    return keys


def _if_address_holder(pod: Pod | None) -> Pod | None:
    """Return the pod if it holds addresses of its own: a terminated pod holds none, a hostNetwork pod its node's."""
    return None if pod is None or pod.host_network or pod.terminated or not pod.ips else pod


def _differing(before: Mapping[K, V], after: Mapping[K, V]) -> set[K]:
    """Return the keys that one mapping lacks, or that have different values in both."""
    return (before.keys() - after.keys()) | {key for key, value in after.items() if before.get(key) != value}
