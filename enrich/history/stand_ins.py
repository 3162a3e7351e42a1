"""Stand-ins for the ends of a pair: every kind of connection that a pair may stand for, as far as policies can tell.

A pair keeps less than a packet has. A profile leaves labels out and has no address, a coarse block has many addresses,
and a node as the peer does not show whether the subject ran there. So a pair stands for several *cases*, one for
each combination that the policies in question can tell apart:

- Addresses. The blocks of the policies cut a range into stretches in which all addresses are equal to them. One address
  of each stretch is enough. An example: the peer is 203.0.113.0/24 (coarse), a rule has 203.0.113.64/26; the cases are
  203.0.113.0, 203.0.113.64 and 203.0.113.128.
- Labels that profiles leave out: without the label, with each value that a selector names, and with another value.
- The own node, which its pods always reach: that the node is the subject's, or is not.

If the policies decide all cases alike, the pair is decided. Otherwise the answer is not known.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from enrich.history.distinctions import Distinctions, Network, stretches
from enrich.history.profile import PORT_PROTOCOLS, left_out_of, named_ports
from enrich.model import Name, NetworkPolicy, Node, Pod, Protocol
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.journal import Profile
from enrich.wire.pair import PairEnd, PairKey

EVERYWHERE: Final[tuple[Network, ...]] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
MAX_CASES: Final = 512
"""More cases than this of one pair are not looked at."""
NO_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - nothing is bound to it
"""Stands for an address that no policy asks for."""
_OTHER: Final = "~"
"""A value that no label can have, and therefore no selector names."""
_DIRECTIONS: Final = {direction.name.lower(): direction for direction in Direction}
_SELF: Final = "self"
_NODE: Final = "node"


class UnsayableError(Exception):
    """The pair cannot be judged by any policies; the message says why."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the pairs and the policies."""

    profiles: Mapping[str, Profile]
    pod_ranges: tuple[Network, ...] = EVERYWHERE
    """Where the addresses of pods are."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of connection that a pair may stand for."""

    subject: Pod
    peer: Endpoint
    own_node: Node | None
    """The subject's node, if the peer is it: with all its addresses, also those that the API does not list."""
    assumed: tuple[int, ...]
    """The number of the possibility in each of the dimensions, :attr:`Cases.dimensions`."""

    def within(self, view: PolicyView) -> PolicyView:
        """Return the cluster as this case needs it."""
        return view if self.own_node is None else replace(view, nodes={**view.nodes, self.own_node.key: self.own_node})


@dataclass(frozen=True, slots=True)
class Cases:
    """All cases of a pair."""

    direction: Direction
    protocol: Protocol | None
    port: int
    cases: tuple[Case, ...]
    dimensions: tuple[str, ...]
    """In what the cases may differ, as the end of a sentence: ``it depends on ...``."""


class CaseMaker:
    """Makes the cases of pairs, as some policies tell them apart."""

    def __init__(self, known: Known, views: Sequence[PolicyView]) -> None:
        self._known = known
        self._views = views
        self._distinctions: dict[tuple[str, tuple[str, ...]], Distinctions] = {}

    def cases_of(self, key: PairKey) -> Cases:
        """Return the cases of a pair that any of the views can tell apart. Raises :class:`UnsayableError`."""
        profile = _subject_profile(self._known, key.subject)
        protocol, port = _protocol_and_port(key)
        distinctions = self._distinctions_of(profile.namespace, profile)
        subjects = _pods(profile, key.subject.profile, distinctions.labels)
        peer_profile = profile_at(key.peer, self._known.profiles) or profile
        about = self._distinctions_of(profile.namespace, peer_profile)
        peers, about_peers = _peers(self._known, key, self._views, about)
        owns = _own_nodes(key, self._views, distinctions)
        dimensions = (
            f"labels of {key.subject.workload or 'the pod'} that profiles leave out{distinctions.label_text}",
            about_peers,
            f"whether {key.peer.node} is the pod's own node",
        )
        if len(subjects) * len(peers) * len(owns) > MAX_CASES:
            raise UnsayableError(f"the policies tell more than {MAX_CASES} cases of this pair apart")
        made = []
        choices = (enumerate(subjects), enumerate(peers), enumerate(owns))
        for (at_subject, subject), (at_peer, peer), (at_own, own) in itertools.product(*choices):
            node = _with_address(own, peer.ip) if own is not None else None
            ips = (peer.ip,) if key.reason == _SELF else ()
            placed = msgspec.structs.replace(subject, node=node.name if node else "", ips=ips)
            made.append(Case(placed, peer, node, (at_subject, at_peer, at_own)))
        return Cases(direction_of(key), protocol, port, tuple(made), dimensions)

    def _distinctions_of(self, namespace: str, profile: Profile) -> Distinctions:
        """Return what the policies about a namespace tell apart of what is not known of the pods of a profile."""
        place = namespace, left_out_of(profile)
        found = self._distinctions.get(place)
        if found is None:
            found = self._distinctions[place] = Distinctions.of(self._views, *place)
        return found


def direction_of(key: PairKey) -> Direction:
    """Return the direction of a pair, as its subject sees it."""
    return _DIRECTIONS[key.direction]


# --- ends


def profile_at(end: PairEnd, profiles: Mapping[str, Profile]) -> Profile | None:
    """Return the profile of an end; None if it is not known.

    Policies are chosen by the end's namespace, and pods are made of the profile. A worker writes both with the same
    namespace; a pair with another one is not a worker's, and would put policies into that namespace."""
    found = profiles.get(end.profile)
    return found if found is not None and found.namespace == end.namespace else None


def _subject_profile(known: Known, end: PairEnd) -> Profile:
    if end.unknown or not end.profile:
        raise UnsayableError("it is not known which pod decided")
    profile = _profile(known, end)
    if profile.host_network:
        raise UnsayableError("the pod has no network of its own")
    return profile


def _profile(known: Known, end: PairEnd) -> Profile:
    found = profile_at(end, known.profiles)
    if found is None:
        raise UnsayableError(f"the journal does not have the labels of {end.namespace}/{end.workload or end.profile}")
    return found


def _protocol_and_port(key: PairKey) -> tuple[Protocol | None, int]:
    if not key.protocol:
        raise UnsayableError("the protocol is not known")
    if key.protocol not in PORT_PROTOCOLS:
        # Policies see no ports in ICMP, and cannot name other protocols.
        return None, 0
    if not key.port:
        raise UnsayableError("the port is not known")
    return Protocol(key.protocol), key.port


def _pods(profile: Profile, number: str, labels: Mapping[str, tuple[str, ...]]) -> list[Pod]:
    """Return a pod of the profile for each choice of the labels that it leaves out."""
    ports = named_ports(profile)
    made = []
    for extra in itertools.islice(label_choices(labels), MAX_CASES + 1):
        name = profile.workload_name or number
        made.append(Pod(profile.namespace, name, number, {**profile.labels, **extra}, ports=ports))
    return made


def label_choices(labels: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
    """Yield what a pod may have of labels that its profile leaves out: each without a value, with one of those that
    selectors name, and with another."""
    for chosen in itertools.product(*([None, *values, _OTHER] for values in labels.values())):
        yield {key: value for key, value in zip(labels, chosen, strict=True) if value is not None}


def stand_in(profile: Profile, number: str) -> Pod:
    """Return a pod of the profile, without an address and without the labels that profiles leave out."""
    return _pods(profile, number, {})[0]


def _peers(
    known: Known, key: PairKey, views: Sequence[PolicyView], distinctions: Distinctions
) -> tuple[list[Endpoint], str]:
    """Return the ends that the peer may be, and in what they differ."""
    end = key.peer
    if end.unknown:
        raise UnsayableError("it is not known which pod, if any, had the peer's address")
    if end.node:
        node = _node(views, end.node)
        named = dict.fromkeys(node.all_ips)
        return [Endpoint(ip) for ip in named or (NO_ADDRESS,)], f"which of its addresses {node.name} used"
    if end.profile:
        profile = _profile(known, end)
        if profile.host_network:
            raise UnsayableError("the peer is a pod of its node's network, and the node is not known")
        ips = stretches(known.pod_ranges, distinctions.blocks) if distinctions.blocks else [NO_ADDRESS]
        pods = _pods(profile, end.profile, distinctions.labels)
        text = "the peer's address, because a policy has blocks of addresses among those of pods"
        if len(pods) > 1:
            text = f"the peer's labels that profiles leave out{distinctions.label_text}"
        return [Endpoint(ip, pod) for pod in pods for ip in ips], text
    if end.block:
        ips = stretches((ipaddress.ip_network(end.block),), distinctions.blocks)
        return [Endpoint(ip) for ip in ips], f"which address of {end.block} it was"
    raise UnsayableError("the peer's address is not known")


# --- the own node


def _node(views: Sequence[PolicyView], name: str) -> Node:
    found = next((node for view in views if (node := view.nodes.get(Name("", name)))), None)
    if found is None:
        raise UnsayableError(f"node {name} is not known at that time")
    return found


def _own_nodes(key: PairKey, views: Sequence[PolicyView], distinctions: Distinctions) -> list[Node | None]:
    """Return the subject's node if the peer is it, None if it is not, and both where either may be.

    A verdict mostly shows it: a pod's own node always reaches it, with the reason ``node``, and no NetworkPolicy
    decides about a connection to the own node."""
    possible = may_be_own_node(key)
    if key.reason == _NODE:
        if key.peer.node:
            return [_node(views, key.peer.node)]
        if distinctions.nodes:
            # An address that the node has, and that the API does not list, is noted without the node's name.
            raise UnsayableError("it is not known which node this is, and a policy selects nodes by their labels")
        return [Node("own node", "", {})]
    return [_node(views, key.peer.node) if is_own else None for is_own in possible]


def may_be_own_node(key: PairKey) -> tuple[bool, ...]:
    """Return whether the peer of a pair is the subject's own node, or both answers where either may be."""
    if key.reason == _NODE:
        return (True,)
    if not key.peer.node or key.direction == "ingress" or key.reason in ("default_deny", "no_policy"):
        return (False,)
    if any(ref.kind == NetworkPolicy.__name__ for ref in key.policies):
        return (False,)
    return False, True


def _with_address(node: Node, ip: str) -> Node:
    """Return the node with all its addresses: of its own pods it is the machine, not what the API lists of it."""
    return replace(node, ips=tuple(dict.fromkeys((*node.all_ips, ip))))
