"""Parses a ClusterNetworkPolicy, and refuses what its CustomResourceDefinition would refuse.

Texts in quotes are the API's own (``policy.networking.k8s.io/v1alpha2``, clusternetworkpolicy_types.go).
``domainNames`` is refused, because nothing here knows the addresses of a name. A policy that the server has and this
program cannot parse is read leniently, and what cannot be read fails closed, as the API demands; see :func:`_rule`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from enrich.label_selector import Selector
from enrich.model import Action, ClusterNetworkPolicy, ClusterRule, IPBlock, Peer, PolicyPort, Protocol, Tier
from enrich.parse.cursor import Field, UnknownOptionError
from enrich.parse.metadata import LOGGING, annotation_of, is_audited, uid_of
from enrich.parse.network_policy import read_selector

_MAX_ITEMS: Final = 25
"""``MaxItems`` of rules, peers of a rule, protocols of a rule, and networks of a peer."""
MAX_PRIORITY: Final = 1000
_PEERS_WITHOUT_PORT_NAMES: Final = ("networks", "nodes", "domainNames")
_T = TypeVar("_T")
ANYWHERE: Final = (Peer(ip_block=IPBlock("0.0.0.0/0")), Peer(ip_block=IPBlock("::/0")))


@dataclass(frozen=True, slots=True)
class Words:
    """The words in which a kind of policy writes its rules."""

    actions: dict[str, Action]
    ports: str
    """The field of a rule that limits protocols and ports."""
    read_ports: Callable[[Field], list[PolicyPort]]
    """Parses an element of that field."""
    named_port: str
    """The field of such an element that has a port's name."""
    max_items: int
    """``MaxItems`` of rules, peers of a rule, and ports of a rule."""
    egress_peers: tuple[str, ...] = ("namespaces", "pods", "nodes", "networks", "domainNames")


def cluster_network_policy(root: Field) -> ClusterNetworkPolicy:
    """Parse a ClusterNetworkPolicy. Raises :class:`enrich.parse.cursor.InvalidObjectError`.

    Leniently, its valid rules stay as they are, and the others fail closed (see :func:`_rule`). If subject, tier or
    priority cannot be read, the rules that deny apply to every pod or before all others, and nothing is accepted or
    passed.
    """
    spec = root["spec"]
    if not spec.is_set:
        spec.refuse("is required")
    tier, priority = spec["tier"].attempt(_tier), spec["priority"].attempt(priority_of)
    return tiered_policy(ClusterNetworkPolicy, root, _WORDS, tier, priority)


_Policy = TypeVar("_Policy", bound=ClusterNetworkPolicy)


def tiered_policy(kind: type[_Policy], root: Field, words: Words, tier: Tier | None, priority: int | None) -> _Policy:
    """Parse the rest of a policy whose tier and priority are known; None: one that cannot be read."""
    spec = root["spec"]
    subject = spec["subject"].attempt(_subject)
    deny_only = subject is None or tier is None or priority is None
    namespaces, pods = subject or (Selector(), Selector())

    def rules(field: Field, peers: str) -> tuple[ClusterRule, ...]:
        read = [_rule(rule, peers, words) for rule in field.items(most=words.max_items)]
        if deny_only:
            read = [rule if rule.action is Action.DENY else ClusterRule(rule.action, ()) for rule in read]
        return tuple(read)

    return kind(
        name=root["metadata"]["name"].name(),
        uid=uid_of(root, ""),
        tier=Tier.ADMIN if tier is None else tier,
        priority=priority or 0,
        namespaces=namespaces,
        pods=pods,
        ingress=rules(spec["ingress"], "from"),
        egress=rules(spec["egress"], "to"),
        audit=is_audited(root),
        logging=annotation_of(root, LOGGING),
    )


def priority_of(field: Field) -> int:
    """Read a priority."""
    return field.whole(0, MAX_PRIORITY)


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


def _rule(rule: Field, peers: str, words: Words) -> ClusterRule:
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
    action = rule["action"].attempt(lambda field: words.actions[field.choice(*words.actions)])
    ports, all_ports = _elements(rule[words.ports], words.read_ports, words.max_items)
    kinds = words.egress_peers if peers == "to" else ("namespaces", "pods")
    named = words.named_port if any(isinstance(port.port, str) for port in ports) else ""
    found, all_peers = _elements(rule[peers], lambda peer: _peers(peer, kinds, named), words.max_items)
    if not rule[peers].is_set:
        rule[peers].complain("is required")
        all_peers = False
    unknown = any(isinstance(problem, UnknownOptionError) for problem in (rule.problems or ())[notes:])
    if action is Action.ACCEPT:
        nothing = unknown or (rule[words.ports].is_set and not ports)
        return ClusterRule(action, () if nothing else found, () if nothing else ports, name)
    if unknown:
        return ClusterRule(Action.DENY, ANYWHERE, (), name)
    if action is not None and all_peers and all_ports:
        return ClusterRule(action, found, ports, name)
    # A port's name says nothing of an address that no pod has.
    bounded = all_ports and (all_peers or not named)
    return ClusterRule(Action.DENY, found if all_peers else ANYWHERE, ports if bounded else (), name)


def _elements(field: Field, read: Callable[[Field], list[_T]], most: int) -> tuple[tuple[_T, ...], bool]:
    """Parse the elements of a list, each of which makes several; also return whether all of it could be read."""
    elements = field.attempt(lambda listed: list(listed.items(least=1, most=most)))
    made = [element.attempt(read) for element in elements or ()]
    return tuple(one for part in made for one in part or ()), elements is not None and None not in made


def _peers(peer: Field, kinds: tuple[str, ...], named_port: str) -> list[Peer]:
    """Parse one element of ``from`` or ``to``. Each of its ``networks`` is a peer.

    ``named_port`` is the field by which the rule names ports; empty: it does not."""
    field = peer.only(*kinds)
    kind = field.path.rpartition(".")[2]
    if named_port and kind in _PEERS_WITHOUT_PORT_NAMES:
        field.fail(f"cannot be set together with {named_port}: only pods have named ports")
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
        return named_ports(field)
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


def named_ports(field: Field) -> list[PolicyPort]:
    """Read a port's name, which means a port of any protocol.

    The CRD accepts any text. One that is not a valid port name is not the name of any pod's port, and matches nothing.
    """
    if not field.text():
        field.fail("must not be empty")
    return [PolicyPort(each, field.text()) for each in Protocol]


_WORDS: Final = Words(
    {action.value: action for action in Action}, "protocols", _ports, "destinationNamedPort", _MAX_ITEMS
)
