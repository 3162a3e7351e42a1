"""What two sets of policies decide differently, for all connections that there could be.

There are too many connections to list, but policies tell only a few kinds of them apart. For each class of subjects
(pods that the same policies select) and each direction, the policies cut the peers into classes (those that the same
peers of rules match) and the ports into ranges. One connection of each kind is judged by both sets, by the reference.

An example: the new set adds a policy that isolates ``app=db`` and allows ``app=web`` on 5432. The subjects are the pods
of db, the peers web and all others, the ports 5432/TCP, the TCP ports below and above, and other protocols. From web
all but 5432/TCP becomes denied, and from all others everything.

A node is two kinds of peers: the subject's own, which always reaches the pod and which only policies of the tiers keep
it from dialling, and any other.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec

from enrich.history.advice.containment import LAST_PORT
from enrich.history.advice.permits import WorkloadKey, workload_of
from enrich.history.advice.traffic import Question, network
from enrich.history.advice.usage import does_select, is_about, rules_of
from enrich.history.distinctions import may_select, networks_of, stretches
from enrich.history.profile import PORT_PROTOCOLS, left_out_of
from enrich.history.stand_ins import EVERYWHERE, NO_ADDRESS, may_be_own_node, stand_in
from enrich.model import Name, Pod, Policy, Protocol
from enrich.policy.decide import decide
from enrich.policy.matching import Direction, Endpoint, PolicyView, peer_matches
from enrich.wire.journal import Profile

MAX_KINDS: Final = 500_000
"""More kinds of connections than this are not judged."""


class TooManyKindsError(Exception):
    """The policies tell too many kinds of connections apart; the message says how many."""


class Ports(NamedTuple):
    """A range of ports that the policies do not tell apart."""

    protocol: int
    """IANA number; 0: every protocol that policies cannot name."""
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PeerClass:
    """Peers that the policies do not tell apart."""

    names: tuple[str, ...]
    """Workloads, nodes, or addresses in words."""
    signature: Hashable


@dataclass(frozen=True, slots=True)
class Change:
    """Connections that two sets of policies decide differently."""

    namespace: str
    workloads: tuple[WorkloadKey, ...]
    subjects: frozenset[str]
    """Numbers of the profiles."""
    direction: Direction
    becomes: str
    """allowed or denied."""
    peers: tuple[PeerClass, ...]
    ports: tuple[Ports, ...]


class Difference:
    """Compares two sets of policies; see the module. Namespaces and nodes are the same in both views."""

    def __init__(self, old: PolicyView, new: PolicyView, profiles: Mapping[str, Profile]) -> None:
        self._views = old, new
        self._profiles = profiles
        self._subjects: dict[str, tuple[Policy, ...]] = {}
        self._judged = 0
        self._changed = _changed(old, new)
        for number, profile in profiles.items():
            if profile.host_network:
                continue
            pod = stand_in(profile, number)
            policies = [one for view in self._views for one in view.all_policies() if does_select(view, one, pod)]
            if any(_identity(policy) in self._changed for policy in policies):
                self._subjects[number] = tuple(dict.fromkeys(policies))

    def changes(self) -> list[Change]:
        """Return all differences. Raises :class:`TooManyKindsError`."""
        classes: defaultdict[Hashable, list[str]] = defaultdict(list)
        for number, policies in self._subjects.items():
            profile = self._profiles[number]
            classes[profile.namespace, policies, profile.ports].append(number)
        found: list[Change] = []
        for numbers in classes.values():
            for direction in (Direction.INGRESS, Direction.EGRESS):
                found.extend(self._changes_of(numbers, direction))
        return sorted(found, key=lambda one: (one.namespace, one.workloads, one.direction, one.becomes, repr(one)))

    def has(self, change: Change, question: Question) -> bool:
        """Return whether a connection is one of those that a change is about."""
        if question.subject not in change.subjects or question.direction is not change.direction:
            return False
        protocol = question.protocol if question.protocol in PORT_PROTOCOLS else 0
        port = question.port if protocol else 0
        if not any(one.protocol == protocol and one.first <= port <= one.last for one in change.ports):
            return False
        kinds = _Kinds(self._views[0], self._profiles, self._subjects[question.subject], change.direction)
        signatures = {kinds.signature(end, own) for end, own in self._ends(question)}
        return bool(signatures & {peer.signature for peer in change.peers})

    def concerns(self, number: str) -> bool:
        """Return whether policies that differ may decide about pods of a profile."""
        profile = self._profiles.get(number)
        if profile is None:
            return bool(self._changed)
        return not profile.host_network and any(
            _identity(one) in self._changed
            and is_about(view, one, profile.namespace)
            and may_select(one.pods, profile.labels, left_out_of(profile))
            for view in self._views
            for one in view.all_policies()
        )

    def _ends(self, question: Question) -> Iterator[tuple[Endpoint, str]]:
        """Yield the ends that the peer may be, with the name of the node if it is the subject's own."""
        peer = question.peer
        if peer.profile:
            if peer.profile in self._profiles:
                yield Endpoint(NO_ADDRESS, stand_in(self._profiles[peer.profile], peer.profile)), ""
        elif peer.node:
            node = self._views[0].nodes.get(Name("", peer.node))
            for is_own, ip in itertools.product(may_be_own_node(question.key), node.all_ips if node else ()):
                yield Endpoint(ip), peer.node if is_own else ""
        elif peer.block:
            yield Endpoint(str(network(peer.block)[0])), ""

    def _changes_of(self, numbers: list[str], direction: Direction) -> Iterator[Change]:
        """Yield the changes of one class of subjects in one direction."""
        policies = self._subjects[numbers[0]]
        kinds = _Kinds(self._views[0], self._profiles, policies, direction)
        subject = stand_in(self._profiles[numbers[0]], numbers[0])
        views = [_only(view, policies) for view in self._views]
        ranges: defaultdict[tuple[str, PeerClass], list[Ports]] = defaultdict(list)
        for peer, end, own in kinds.peers():
            placed = msgspec.structs.replace(subject, node=own)
            around = [_with_machine(view, own) for view in views]
            for ports in kinds.ports(subject, end):
                self._judged += 1
                if self._judged > MAX_KINDS:
                    raise TooManyKindsError(f"the policies tell more than {MAX_KINDS:,} kinds of connections apart")
                protocol = Protocol(ports.protocol) if ports.protocol else None
                old, new = (decide(view, placed, direction, end, protocol, ports.first).allowed for view in around)
                if old is not new:
                    _append(ranges["allowed" if new else "denied", peer], ports)
        alike: defaultdict[tuple[str, tuple[Ports, ...]], list[PeerClass]] = defaultdict(list)
        for (becomes, peer), found in ranges.items():
            alike[becomes, tuple(found)].append(peer)
        workloads = tuple(sorted({workload_of(number, self._profiles[number]) for number in numbers}))
        for (becomes, found_ports), peers in alike.items():
            yield Change(
                subject.namespace, workloads, frozenset(numbers), direction, becomes, tuple(peers), found_ports
            )


class _Kinds:
    """The classes of peers and the ranges of ports that some policies tell apart in one direction."""

    def __init__(
        self, view: PolicyView, profiles: Mapping[str, Profile], policies: Iterable[Policy], direction: Direction
    ) -> None:
        self._view, self._profiles, self._direction = view, profiles, direction
        rules = [(policy, rule) for policy in policies for rule in rules_of(policy, direction)]
        self._peers = tuple(
            dict.fromkeys((policy.key.namespace, peer) for policy, rule in rules for peer in rule.peers)
        )
        self._ports = tuple(dict.fromkeys(port for _, rule in rules for port in rule.ports))

    def signature(self, end: Endpoint, own: str) -> Hashable:
        """Return what the policies see of an end: which peers of rules match it, whether it is the subject's node and,
        of a pod that is dialled, what its port names mean."""
        matched = tuple(peer_matches(self._view, namespace, peer, end) for namespace, peer in self._peers)
        named_ports = end.pod.ports if end.pod and self._direction is Direction.EGRESS else ()
        return matched, bool(own), end.pod is not None, named_ports

    def peers(self) -> Iterator[tuple[PeerClass, Endpoint, str]]:
        """Yield each class of peers, with one of it, and its name if it is the subject's own node."""
        found: dict[Hashable, tuple[dict[str, None], Endpoint, str]] = {}
        for name, end, own in (*self._pods(), *self._nodes(), *self._addresses()):
            names, _, _ = found.setdefault(self.signature(end, own), ({}, end, own))
            names[name] = None
        for signature, (names, end, own) in found.items():
            yield PeerClass(tuple(names), signature), end, own

    def _pods(self) -> Iterator[tuple[str, Endpoint, str]]:
        for number, profile in sorted(self._profiles.items(), key=lambda item: workload_of(*item)):
            if not profile.host_network:
                name = f"{profile.namespace} {workload_of(number, profile)}"
                yield name, Endpoint(NO_ADDRESS, stand_in(profile, number)), ""

    def _nodes(self) -> Iterator[tuple[str, Endpoint, str]]:
        """Yield each address of each node, as one of another node than the subject's and as one of its own."""
        for node in self._view.nodes.values():
            for ip in node.all_ips:
                yield f"node {node.name}", Endpoint(ip), ""
                yield f"own node {node.name}", Endpoint(ip), node.name

    def _addresses(self) -> Iterator[tuple[str, Endpoint, str]]:
        """Yield an address of each stretch that the blocks of rules tell apart."""
        blocks = {block for _, peer in self._peers if peer.ip_block for block in networks_of(peer.ip_block)}
        for ip in stretches(EVERYWHERE, blocks):
            address = ipaddress.ip_address(ip)
            around = [block for block in blocks if address in block]
            least = max(around, key=lambda block: block.prefixlen, default=None)
            name = f"addresses of {least}" if least else f"any other IPv{address.version} address"
            yield name, Endpoint(ip), ""

    def ports(self, subject: Pod, end: Endpoint) -> Iterator[Ports]:
        """Yield the ranges of ports that the rules tell apart, of each protocol, and one for all other protocols."""
        destination = end.pod if self._direction is Direction.EGRESS else subject
        for protocol in Protocol:
            cuts = {1, LAST_PORT + 1}
            for port in self._ports:
                if port.protocol is not protocol:
                    continue
                if isinstance(port.port, int):
                    cuts |= {port.port, (port.end_port or port.port) + 1}
                elif isinstance(port.port, str) and destination is not None:
                    named = {one.port for one in destination.ports if one.name == port.port}
                    cuts |= named | {one + 1 for one in named}
            bounds = sorted(cut for cut in cuts if 1 <= cut <= LAST_PORT + 1)
            for first, after in itertools.pairwise(bounds):
                yield Ports(int(protocol), first, after - 1)
        yield Ports(0, 0, 0)


def _append(ranges: list[Ports], more: Ports) -> None:
    """Add a range, as a part of the last one if it follows it."""
    last = ranges[-1] if ranges else None
    if last is not None and last.protocol == more.protocol and last.last + 1 == more.first:
        ranges[-1] = Ports(last.protocol, last.first, more.last)
    else:
        ranges.append(more)


def _identity(policy: Policy) -> tuple[str, Name]:
    return type(policy).__name__, policy.key


def _changed(old: PolicyView, new: PolicyView) -> set[tuple[str, Name]]:
    """Return the policies that are in one view only, or differ in what is enforced."""

    def of(view: PolicyView) -> dict[tuple[str, Name], Policy]:
        return {_identity(one): replace(one, uid="", logging=None) for one in view.all_policies()}

    before, after = of(old), of(new)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _with_machine(view: PolicyView, name: str) -> PolicyView:
    """Return the view with all addresses of a node: of its own pods it is the machine, not what the API lists of it."""
    node = view.nodes.get(Name("", name))
    return view if node is None else replace(view, nodes={**view.nodes, node.key: replace(node, ips=node.all_ips)})


def _only(view: PolicyView, policies: Iterable[Policy]) -> PolicyView:
    """Return the view with some of its policies, as it has them."""
    names = {_identity(policy) for policy in policies}
    return replace(
        view,
        policies={key: one for key, one in view.policies.items() if _identity(one) in names},
        cluster_policies={key: one for key, one in view.cluster_policies.items() if _identity(one) in names},
    )
