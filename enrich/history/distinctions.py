"""What some policies tell apart of the things that a pair does not keep: addresses, left-out labels, nodes."""

from __future__ import annotations

import ipaddress
import itertools
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from enrich.history.profile import is_left_out
from enrich.label_selector import Requirement, Selector
from enrich.model import ClusterNetworkPolicy, ClusterRule, IPBlock, Labels, NetworkPolicy, Rule
from enrich.policy import selectors
from enrich.policy.matching import PolicyView

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Distinctions:
    """What the policies in question ask for, of what a pair does not have."""

    blocks: tuple[Network, ...]
    """All blocks and their exceptions."""
    labels: Mapping[str, tuple[str, ...]]
    """Labels that profiles leave out and that a selector of pods asks for, with the values that it names."""
    nodes: bool
    """Whether a rule selects nodes by their labels."""

    @classmethod
    def of(cls, views: Sequence[PolicyView], namespace: str, left_out: Collection[str]) -> Distinctions:
        """Collect from all policies that may select a pod of the namespace."""
        blocks: dict[Network, None] = {}
        labels: dict[str, dict[str, None]] = {}
        nodes = False
        for policy in itertools.chain.from_iterable(policies_of(view, namespace) for view in views):
            peers = [peer for rule in all_rules_of(policy) for peer in rule.peers]
            blocks.update((net, None) for peer in peers if peer.ip_block for net in networks_of(peer.ip_block))
            nodes = nodes or any(peer.nodes is not None for peer in peers)
            for one in left_out_requirements(policy, left_out):
                labels.setdefault(one.key, {}).update(dict.fromkeys(one.values))
        return cls(tuple(blocks), {key: tuple(values) for key, values in labels.items()}, nodes)

    @property
    def label_text(self) -> str:
        """The labels as the end of a text."""
        return f": {', '.join(sorted(self.labels))}" if self.labels else ""


def left_out_requirements(
    policy: NetworkPolicy | ClusterNetworkPolicy, left_out: Collection[str]
) -> Iterator[Requirement]:
    """Yield what a policy asks of pods' labels that profiles leave out."""
    peers = (peer for rule in all_rules_of(policy) for peer in rule.peers)
    for selector in (policy.pods, *(peer.pods for peer in peers if peer.pods)):
        yield from (one for one in selector.requirements if is_left_out(one.key, left_out))


def may_select(selector: Selector, labels: Labels, left_out: Collection[str]) -> bool:
    """Return whether a selector may match pods with these labels and any of those that profiles leave out."""
    return all(
        is_left_out(one.key, left_out) or selectors.requirement_matches(one, labels) for one in selector.requirements
    )


def policies_of(view: PolicyView, namespace: str) -> Iterator[NetworkPolicy | ClusterNetworkPolicy]:
    """Yield all policies that may select a pod of a namespace."""
    yield from view.cluster_policies.values()
    yield from (policy for policy in view.policies.values() if policy.namespace == namespace)


def all_rules_of(policy: NetworkPolicy | ClusterNetworkPolicy) -> Iterator[Rule | ClusterRule]:
    """Yield the rules of both directions."""
    yield from policy.ingress or ()
    yield from policy.egress or ()


def networks_of(block: IPBlock) -> Iterator[Network]:
    """Yield the block and its exceptions."""
    yield from map(ipaddress.ip_network, (block.cidr, *block.excepts))


def stretches(ranges: Iterable[Network], blocks: Iterable[Network]) -> list[str]:
    """Return an address of each stretch of the ranges that the blocks tell apart: where a range or a block begins, and
    behind the end of a block."""
    found: dict[str, None] = {}
    for one in ranges:
        starts = {int(one.network_address)}
        for block in blocks:
            if block.version == one.version:
                starts |= {int(block.network_address), int(block.broadcast_address) + 1}
        make = type(one.network_address)
        inside = (at for at in sorted(starts) if int(one.network_address) <= at <= int(one.broadcast_address))
        found.update((str(make(at)), None) for at in inside)
    return list(found)


class Distinguished:
    """What some policies tell apart, to be asked about one address after the other."""

    def __init__(self, distinctions: Distinctions) -> None:
        self.labels = distinctions.labels
        """Labels that profiles leave out and that a selector asks for, with the values that it names."""
        edges: dict[int, set[int]] = {4: set(), 6: set()}
        for block in distinctions.blocks:
            edges[block.version] |= {int(block.network_address), int(block.broadcast_address) + 1}
        self._edges = {version: sorted(found) for version, found in edges.items()}

    def stretch(self, ip: str) -> tuple[int, int]:
        """Return the stretch of addresses that one is in: no block tells those of one stretch apart."""
        address = ipaddress.ip_address(ip)
        return address.version, bisect_right(self._edges[address.version], int(address))
