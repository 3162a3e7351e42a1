"""Which addresses a node's rules can tell apart, kept while pods, nodes, namespaces and terms change.

Peers of one kind and family that the same terms match, and on which the named ports in use have the same numbers, are
one class, and each class has a number, the identity. A pod whose like is known costs its own entry and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from enrich.model import IPBlock, Name, NamedPort, Namespace, Node, Pod
from enrich.policy import selectors
from probe.ledger import Ledger
from probe.policy.cidr_index import CidrIndex, prefix_of
from probe.policy.desired import NODE, POD, WORLD, AddressKey, Identity, family_of, host_key
from probe.policy.label_groups import LabelGroups
from probe.policy.peer_selectors import (
    ALL_ADDRESSES,
    NamedPortNumbers,
    NodePeerSelector,
    PeerSelector,
    PeerTraits,
    PodPeerSelector,
    PortName,
    resolve_named_ports,
)
from probe.policy.ruleset import digest

_Signature = tuple[int, PeerTraits]
Holder = TypeVar("Holder", Pod, Node)


@dataclass(slots=True, eq=False)
class IdentityInUse:
    """Peers that no rule tells apart."""

    identity: Identity
    match: PeerTraits
    members: int = 0


@dataclass(frozen=True, slots=True)
class ClusterChanges:
    """What changed between two states of the cluster, each with what was before and what is after."""

    pods: Sequence[tuple[Pod | None, Pod | None]] = ()
    nodes: Sequence[tuple[Node | None, Node | None]] = ()
    namespaces: Mapping[Name, Namespace] = field(default_factory=dict)
    """All of them, as they are now."""
    relabelled: frozenset[str] = frozenset()
    """Those that came, went or have other labels."""
    own_node: str = ""


class Identities:
    """The class of every address that is not just anywhere. Writes ``ipcache`` and says what it touched."""

    def __init__(self, numbers: Ledger, ipcache: dict[AddressKey, Identity], changed_keys: set[AddressKey]) -> None:
        self._numbers = numbers
        self._ipcache, self._touched = ipcache, changed_keys
        self._groups = LabelGroups()
        self._blocks = CidrIndex({})
        self._block_terms: dict[IPBlock, int] = {}
        self._everywhere: frozenset[int] = frozenset()
        self._node_terms: dict[int, NodePeerSelector] = {}
        self._digests: Mapping[int, bytes] = {}
        self._names: list[PortName] = []
        self._on_ports: dict[tuple[NamedPort, ...], NamedPortNumbers] = {(): ()}
        self._with_ports: dict[tuple[NamedPort, ...], set[Name]] = {}
        self._namespaces: Mapping[Name, Namespace] = {}
        self._pods: dict[Name, Pod] = {}
        self._holders: dict[AddressKey, dict[Name, Pod]] = {}
        self._nodes: dict[AddressKey, dict[Name, Node]] = {}
        self._classes: dict[_Signature, IdentityInUse] = {}
        self._of: dict[AddressKey, IdentityInUse] = {}
        self._dirty: set[AddressKey] = set()
        self._own_node = ""

    @property
    def classes(self) -> Collection[IdentityInUse]:
        """Those that have members."""
        return self._classes.values()

    def update(
        self,
        changes: ClusterChanges,
        added: Mapping[int, PeerSelector],
        removed: Mapping[int, PeerSelector],
        digests: Mapping[int, bytes],
        names: list[PortName],
    ) -> tuple[list[IdentityInUse], list[IdentityInUse]]:
        """Take in what changed. The classes that came and those that went."""
        self._digests = digests
        self._namespaces = changes.namespaces
        self._update_groups(changes, added, removed)
        self._update_nodes(changes, added, removed)
        self._update_blocks(added, removed)
        self._update_names(names)
        for before, after in changes.pods:
            self._change_pod(before, after)
        return self._settle()

    # --- what makes addresses dirty

    def _update_groups(
        self, changes: ClusterChanges, added: Mapping[int, PeerSelector], removed: Mapping[int, PeerSelector]
    ) -> None:
        pod_terms = {number: term for number, term in added.items() if isinstance(term, PodPeerSelector)}
        gone = {number for number, term in removed.items() if isinstance(term, PodPeerSelector)}
        for pod in self._groups.update(changes.namespaces, set(changes.relabelled), pod_terms, gone):
            self._dirty.update(map(host_key, self._pods[pod].ips))
        for namespace in changes.relabelled:
            # Whether a namespace is known makes a difference to its pods, even where no term does.
            for pod in self._groups.pods_in(namespace):
                self._dirty.update(map(host_key, self._pods[pod].ips))

    def _change_pod(self, before: Pod | None, after: Pod | None) -> None:
        before, after = _holding(before), _holding(after)
        if before is not None:
            self._groups.remove(before)
            del self._pods[before.key]
            self._with_ports[before.ports].discard(before.key)
            self._dirty.update(_drop(self._holders, before))
        if after is not None:
            self._groups.add(after)
            self._pods[after.key] = after
            self._with_ports.setdefault(after.ports, set()).add(after.key)
            self._dirty.update(_hold(self._holders, after))

    def _update_nodes(
        self, changes: ClusterChanges, added: Mapping[int, PeerSelector], removed: Mapping[int, PeerSelector]
    ) -> None:
        came = {number: term for number, term in added.items() if isinstance(term, NodePeerSelector)}
        gone = {number for number, term in removed.items() if isinstance(term, NodePeerSelector)}
        if came or gone or changes.own_node != self._own_node:
            self._own_node = changes.own_node
            kept = {number: term for number, term in self._node_terms.items() if number not in gone}
            self._node_terms = kept | came
            self._dirty.update(self._nodes)
        for before, after in changes.nodes:
            if before is not None:
                self._dirty.update(_drop(self._nodes, before))
            if after is not None:
                self._dirty.update(_hold(self._nodes, after))

    def _update_blocks(self, added: Mapping[int, PeerSelector], removed: Mapping[int, PeerSelector]) -> None:
        came = {term: number for number, term in added.items() if isinstance(term, IPBlock)}
        gone = {term for term in removed.values() if isinstance(term, IPBlock)}
        if not came and not gone:
            return
        before = dict(self._blocks.items())
        self._block_terms = {term: n for term, n in self._block_terms.items() if term not in gone} | came
        self._everywhere = frozenset(n for term, n in self._block_terms.items() if term in ALL_ADDRESSES)
        self._blocks = CidrIndex(self._block_terms)
        after = dict(self._blocks.items())
        self._dirty.update(key for key, _ in before.items() ^ after.items())
        narrow = [block for block in (*came, *gone) if block not in ALL_ADDRESSES]
        hosts = {*self._holders, *self._nodes}
        for block in narrow:
            self._dirty.update(_within(block, hosts))

    def _update_names(self, names: list[PortName]) -> None:
        if names == self._names:
            return
        self._names = names
        for ports in [ports for ports, pods in self._with_ports.items() if not pods]:
            del self._with_ports[ports]
        self._on_ports = {ports: named for ports, named in self._on_ports.items() if ports in self._with_ports}
        for ports, before in list(self._on_ports.items()):
            now = self._on_ports[ports] = resolve_named_ports(ports, names)
            if now != before:
                for pod in self._with_ports[ports]:
                    self._dirty.update(map(host_key, self._pods[pod].ips))

    # --- what dirty addresses become

    def _settle(self) -> tuple[list[IdentityInUse], list[IdentityInUse]]:
        came: list[IdentityInUse] = []
        went: list[IdentityInUse] = []
        for key in self._dirty:
            before = self._of.get(key)
            signature = self._signature(key)
            after = None
            if signature is not None:
                after = self._classes.get(signature)
                if after is None:
                    after = self._classes[signature] = self._made(signature)
                    came.append(after)
                after.members += 1
            if before is not None:
                before.members -= 1
                went += [before] if not before.members else []
            if after is before:
                continue
            self._touched.add(key)
            if after is None:
                del self._of[key], self._ipcache[key]
            else:
                self._of[key] = after
                self._ipcache[key] = after.identity
        self._dirty.clear()
        # A class may have lost its last member and won another since.
        gone = [one for one in dict.fromkeys(went) if not one.members]
        for one in gone:
            del self._classes[one.identity.kind, one.match]
        return [one for one in came if one.members], gone

    def _made(self, signature: _Signature) -> IdentityInUse:
        kind, match = signature
        terms = sorted(self._digests[number] for number in match.terms)
        number = self._numbers.number_of("identity", digest(kind, terms, *match[1:]))
        return IdentityInUse(Identity(number, kind), match)

    def _signature(self, key: AddressKey) -> _Signature | None:
        family = family_of(key)
        holders, nodes = self._holders.get(key), self._nodes.get(key)
        if not holders and not nodes:
            found = self._blocks.at(key)
            return None if found is None else (WORLD, PeerTraits(found - self._everywhere, family=family))
        blocks = self._blocks.terms_of(key[0]) - self._everywhere
        if holders:
            # Of two that claim one address, the API has yet to take it from the older.
            pod = max(holders.values(), key=lambda one: (one.started_ns, one.uid))
            named = self._on_ports.get(pod.ports)
            if named is None:
                named = self._on_ports[pod.ports] = resolve_named_ports(pod.ports, self._names)
            terms = self._groups.terms_of(pod.key) | blocks
            return POD, PeerTraits(terms, Name("", pod.namespace) in self._namespaces, family, named)
        there = (nodes or {}).values()
        terms = frozenset(
            number
            for number, term in self._node_terms.items()
            if any(selectors.matches(term.nodes, node.labels) for node in there)
        )
        own = any(node.name == self._own_node for node in there)
        return NODE, PeerTraits(terms | blocks, family=family, own=own)


def _hold(table: dict[AddressKey, dict[Name, Holder]], holder: Holder) -> list[AddressKey]:
    keys = [host_key(ip) for ip in holder.ips]
    for key in keys:
        table.setdefault(key, {})[holder.key] = holder
    return keys


def _drop(table: dict[AddressKey, dict[Name, Holder]], holder: Holder) -> list[AddressKey]:
    keys = [host_key(ip) for ip in holder.ips]
    for key in keys:
        table.get(key, {}).pop(holder.key, None)
        if not table.get(key, True):
            del table[key]
    return keys


def _holding(pod: Pod | None) -> Pod | None:
    """Whether the pod holds addresses of its own: a terminated one holds none, a hostNetwork pod is its node."""
    return None if pod is None or pod.host_network or pod.terminated or not pod.ips else pod


def _within(block: IPBlock, hosts: Iterable[AddressKey]) -> Iterable[AddressKey]:
    address, length = prefix_of(block.cidr)
    shift = 128 - length
    wanted = address >> shift
    return [key for key in hosts if int.from_bytes(key[0], "big") >> shift == wanted]
