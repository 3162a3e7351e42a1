"""Parses a ClusterNetworkPolicy, and refuses what its CustomResourceDefinition would refuse.

Texts in quotes are the API's own (``policy.networking.k8s.io/v1alpha2``, clusternetworkpolicy_types.go).
``domainNames`` is refused, because nothing here knows the addresses of a name. A policy that the server has and this
program cannot parse is read leniently, and what cannot be read fails closed, as the API demands; see :func:`_rule`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from enrich.label_selector import Selector
from enrich.model import Action, ClusterNetworkPolicy, ClusterRule, IPBlock, Peer, PolicyPort, Protocol, Tier
from enrich.parse.cursor import Field, UnknownOptionError
from enrich.parse.metadata import is_audited, uid_of
from enrich.parse.network_policy import read_selector

_MAX_ITEMS: Final = 25
"""``MaxItems`` of rules, peers of a rule, protocols of a rule, and networks of a peer."""
_PEERS_WITHOUT_PORT_NAMES: Final = ("networks", "nodes", "domainNames")
_T = TypeVar("_T")
ANYWHERE: Final = (Peer(ip_block=IPBlock("0.0.0.0/0")), Peer(ip_block=IPBlock("::/0")))


def cluster_network_policy(root: Field) -> ClusterNetworkPolicy:
    """Parse a ClusterNetworkPolicy. Raises :class:`enrich.parse.cursor.InvalidObjectError`.

    Leniently, its valid rules stay as they are, and the others fail closed (see :func:`_rule`). If subject, tier or
    priority cannot be read, the rules that deny apply to every pod or before all others, and nothing is accepted or
    passed.
    """
    spec = root["spec"]
    if not spec.is_set:
        spec.refuse("is required")
    subject, tier = spec["subject"].attempt(_subject), spec["tier"].attempt(_tier)
    priority = spec["priority"].attempt(lambda field: field.whole(0, 1000))
    read = _rule if None not in (subject, tier, priority) else _deny_only
    namespaces, pods = subject or (Selector(), Selector())
    return ClusterNetworkPolicy(
        name=root["metadata"]["name"].name(),
        uid=uid_of(root, ""),
        tier=Tier.ADMIN if tier is None else tier,
        priority=priority or 0,
        namespaces=namespaces,
        pods=pods,
        ingress=tuple(read(rule, "from") for rule in spec["ingress"].items(most=_MAX_ITEMS)),
        egress=tuple(read(rule, "to") for rule in spec["egress"].items(most=_MAX_ITEMS)),
        audit=is_audited(root),
    )


def _tier(field: Field) -> Tier:
    return Tier[field.choice("Admin", "Baseline").upper()]


def _subject(subject: Field) -> tuple[Selector, Selector]:
    """ "Exactly one field must be set." """
    field = subject.only("namespaces", "pods")
    return (read_selector(field), Selector()) if field.path.endswith(".namespaces") else _namespaced(field)


def _namespaced(field: Field) -> tuple[Selector, Selector]:
    """A NamespacedPod: an empty namespaceSelector "selects all Namespaces"; "podSelector ... if empty ... all Pods"."""
    if not field["podSelector"].is_set:
        field["podSelector"].refuse("is required")
    return read_selector(field["namespaceSelector"]), read_selector(field["podSelector"])


def _rule(rule: Field, peers: str) -> ClusterRule:
    """Parse a rule. Leniently, a part that cannot be read fails closed:

    - An option that is not known, such as another kind of peer, closes the whole rule, as the API demands: "For Accept
      rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass rules ... treat the rule as a
      'Deny all' rule."
    - A wrong value of a known one, such as port 70000, is left out of an Accept rule. In a Deny or Pass rule it counts
      as any peer or any port, and the rest of the rule still limits it: Deny to 10.0.0.0/8 on ports 80 and 70000
      denies every port of 10.0.0.0/8. A rule whose action cannot be read denies.
    """
    notes = len(rule.problems or ())
    name = rule["name"].attempt(lambda field: field.text("")) or ""
    if len(name) > 100:
        rule["name"].complain("must be no longer than 100 characters")
    action = rule["action"].attempt(lambda field: Action(field.choice(*(one.value for one in Action))))
    ports, all_ports = _elements(rule["protocols"], _ports)
    named = any(isinstance(port.port, str) for port in ports)
    found, all_peers = _elements(rule[peers], lambda peer: _peers(peer, egress=peers == "to", named_ports=named))
    if not rule[peers].is_set:
        rule[peers].complain("is required")
        all_peers = False
    unknown = any(isinstance(problem, UnknownOptionError) for problem in (rule.problems or ())[notes:])
    if action is Action.ACCEPT:
        nothing = unknown or (rule["protocols"].is_set and not ports)
        return ClusterRule(action, () if nothing else found, () if nothing else ports, name)
    if unknown:
        return ClusterRule(Action.DENY, ANYWHERE, (), name)
    if action is not None and all_peers and all_ports:
        return ClusterRule(action, found, ports, name)
    # A port's name says nothing of an address that no pod has.
    bounded = all_ports and (all_peers or not named)
    return ClusterRule(Action.DENY, found if all_peers else ANYWHERE, ports if bounded else (), name)


def _elements(field: Field, read: Callable[[Field], list[_T]]) -> tuple[tuple[_T, ...], bool]:
    """Parse the elements of a list, each of which makes several; also return whether all of it could be read."""
    elements = field.attempt(lambda listed: list(listed.items(least=1, most=_MAX_ITEMS)))
    made = [element.attempt(read) for element in elements or ()]
    return tuple(one for part in made for one in part or ()), elements is not None and None not in made


def _deny_only(rule: Field, peers: str) -> ClusterRule:
    read = _rule(rule, peers)
    return read if read.action is Action.DENY else ClusterRule(read.action, ())


def _peers(peer: Field, *, egress: bool, named_ports: bool) -> list[Peer]:
    """Parse one element of ``from`` or ``to``. Each of its ``networks`` is a peer."""
    kinds = ("namespaces", "pods", "nodes", "networks", "domainNames") if egress else ("namespaces", "pods")
    field = peer.only(*kinds)
    kind = field.path.rpartition(".")[2]
    if named_ports and kind in _PEERS_WITHOUT_PORT_NAMES:
        field.fail("cannot be set together with destinationNamedPort: only pods have named ports")
    if kind == "domainNames":
        raise UnknownOptionError(
            field.path, "is not supported, because the addresses of a name are not known; use networks"
        )
    if kind == "networks":
        return _networks(field)
    if kind == "nodes":
        return [Peer(nodes=read_selector(field))]
    return [Peer(*(_namespaced(field) if kind == "pods" else (read_selector(field), Selector())))]


def _networks(field: Field) -> list[Peer]:
    texts = [entry.text() for entry in field.items(least=1, most=_MAX_ITEMS)]
    if len(set(texts)) < len(texts):
        field.complain("must not have a CIDR twice")
    read = [entry.survey(Field.network) for entry in field.items()]
    return [Peer(ip_block=IPBlock(str(network))) for network in read if network is not None]


def _ports(protocol: Field) -> list[PolicyPort]:
    """A ClusterNetworkPolicyProtocol. A port's name means "a destination port on a pod", of any protocol."""
    field = protocol.only("tcp", "udp", "sctp", "destinationNamedPort")
    kind = field.path.rpartition(".")[2]
    if kind == "destinationNamedPort":
        # The CRD accepts any text. One that is not a valid port name is not the name of any pod's port, and matches
        # nothing.
        if not field.text():
            field.fail("must not be empty")
        return [PolicyPort(each, field.text()) for each in Protocol]
    port = field.only("destinationPort").only("number", "range")
    transport = Protocol[kind.upper()]
    if port.path.endswith(".number"):
        return [PolicyPort(transport, port.port())]
    first, last = port["start"].survey(Field.port), port["end"].survey(Field.port)
    if first is None or last is None:
        return []
    if first >= last:
        port.fail(f"start must be less than end, is {first} to {last}")
    return [PolicyPort(transport, first, last)]
