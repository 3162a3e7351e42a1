"""Whether everything that one rule matches is matched by another rule, for all pods and labels.

The answer is "yes" only with a proof from the texts of the two rules: a rule that happens to match nothing today may
match something tomorrow. An example: ``app In (web)`` is contained in ``app In (web, api)``, and in ``app Exists``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from enrich.history.advice.traffic import inside, network
from enrich.label_selector import Operator, Requirement, Selector, namespace_selector
from enrich.model import ClusterNetworkPolicy, IPBlock, NetworkPolicy, Peer, Policy, PolicyPort

LAST_PORT: Final = 65_535
_EVERYTHING: Final = Selector()


def is_selector_in(inner: Selector, outer: Selector) -> bool:
    """Return whether labels that match ``inner`` always match ``outer``."""
    return all(any(_implies(one, other) for one in inner.requirements) for other in outer.requirements)


def _implies(one: Requirement, other: Requirement) -> bool:
    """Return whether labels that meet one requirement always meet the other. NotIn is met without the key, too."""
    if one.key != other.key:
        return False
    values, others = set(one.values), set(other.values)
    match other.operator:
        case Operator.IN:
            return one.operator is Operator.IN and values <= others
        case Operator.EXISTS:
            return one.operator in (Operator.IN, Operator.EXISTS)
        case Operator.DOES_NOT_EXIST:
            return one.operator is Operator.DOES_NOT_EXIST
        case Operator.NOT_IN:
            if one.operator is Operator.IN:
                return not values & others
            return one.operator is Operator.DOES_NOT_EXIST or (one.operator is Operator.NOT_IN and others <= values)


def are_subjects_in(inner: Policy, outer: Policy) -> bool:
    """Return whether a policy selects every pod that another one selects."""
    inner_namespaces, outer_namespaces = _namespaces(inner), _namespaces(outer)
    return is_selector_in(inner_namespaces, outer_namespaces) and is_selector_in(inner.pods, outer.pods)


def _namespaces(policy: Policy) -> Selector:
    if isinstance(policy, ClusterNetworkPolicy):
        return policy.namespaces
    return namespace_selector(policy.namespace)


def are_peers_in(inner: Policy, inner_peers: Iterable[Peer], outer: Policy, outer_peers: Iterable[Peer]) -> bool:
    """Return whether each peer of a rule belongs to a peer of another rule.

    A NetworkPolicy's rule without peers matches any peer, a ClusterNetworkPolicy's none."""
    within, around = list(inner_peers), list(outer_peers)
    if not around:
        return isinstance(outer, NetworkPolicy)
    if not within and isinstance(inner, NetworkPolicy):
        return False
    return all(any(_is_peer_in(inner, one, outer, other) for other in around) for one in within)


def _is_peer_in(inner: Policy, one: Peer, outer: Policy, other: Peer) -> bool:
    if one.ip_block is not None or other.ip_block is not None:
        return one.ip_block is not None and other.ip_block is not None and is_block_in(one.ip_block, other.ip_block)
    if one.nodes is not None or other.nodes is not None:
        return one.nodes is not None and other.nodes is not None and is_selector_in(one.nodes, other.nodes)
    namespaces = one.namespaces if one.namespaces is not None else _namespaces(inner)
    others = other.namespaces if other.namespaces is not None else _namespaces(outer)
    return is_selector_in(namespaces, others) and is_selector_in(one.pods or _EVERYTHING, other.pods or _EVERYTHING)


def is_block_in(inner: IPBlock, outer: IPBlock) -> bool:
    """Return whether every address of a block belongs to another block."""
    cidr = network(inner.cidr)
    if not inside(cidr, network(outer.cidr)):
        return False
    holes = [network(one) for one in inner.excepts]
    return all(
        not cidr.overlaps(hole) or any(inside(hole, one) for one in holes) for hole in map(network, outer.excepts)
    )


def are_ports_in(inner: tuple[PolicyPort, ...], outer: tuple[PolicyPort, ...]) -> bool:
    """Return whether a rule's ports match every port that another rule's match. No ports are all ports."""
    if not outer:
        return True
    return bool(inner) and all(any(_is_port_in(one, other) for other in outer) for one in inner)


def _is_port_in(one: PolicyPort, other: PolicyPort) -> bool:
    if one.protocol is not other.protocol:
        return False
    if other.port is None:
        return True
    if one.port is None:
        return other.port in (0, 1) and other.end_port == LAST_PORT
    if isinstance(one.port, str) or isinstance(other.port, str):
        return one.port == other.port
    return other.port <= one.port and (one.end_port or one.port) <= (other.end_port or other.port)
