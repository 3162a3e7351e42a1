"""Parses a ClusterNetworkPolicy, and refuses what its CustomResourceDefinition would refuse.

Texts in quotes are the API's own (``policy.networking.k8s.io/v1alpha2``, clusternetworkpolicy_types.go).
``domainNames`` is refused, because nothing here knows the addresses of a name. A policy that the server has and this
program cannot parse fails closed, as the API demands; see :func:`closed_cluster_network_policy`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from enrich.model import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    IPBlock,
    Peer,
    PolicyPort,
    Protocol,
    Selector,
    Tier,
)
from enrich.parse.cursor import Field, InvalidObjectError
from enrich.parse.metadata import is_audited, uid_of
from enrich.parse.network_policy import read_selector

_MAX_ITEMS: Final = 25
"""``MaxItems`` of rules, peers of a rule, protocols of a rule, and networks of a peer."""
_PEERS_WITHOUT_PORT_NAMES: Final = ("networks", "nodes", "domainNames")
ANYWHERE: Final = (Peer(ip_block=IPBlock("0.0.0.0/0")), Peer(ip_block=IPBlock("::/0")))


def cluster_network_policy(root: Field) -> ClusterNetworkPolicy:
    """Parse a ClusterNetworkPolicy. Raises :class:`InvalidObjectError`."""
    return _policy(root, _rule)


def closed_cluster_network_policy(root: Field) -> ClusterNetworkPolicy:
    """Parse a policy of which a part is invalid, and "fail closed". Raises :class:`InvalidObjectError` if all of it is.

    "For Accept rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass rules ... treat the
    rule as a 'Deny all' rule." Valid rules stay as they are. If the subject is invalid, the rules that deny apply to
    every pod, and nothing is accepted or passed.
    """
    with contextlib.suppress(InvalidObjectError):
        return _policy(root, _closed_rule)
    return _policy(Field("", {**root.value, "spec": {**root["spec"].value, "subject": {"namespaces": {}}}}), _deny_only)


def _policy(root: Field, read: Callable[[Field, str], ClusterRule]) -> ClusterNetworkPolicy:
    spec = root["spec"]
    if not spec.is_set:
        spec.fail("is required")
    namespaces, pods = _subject(spec["subject"])
    return ClusterNetworkPolicy(
        name=root["metadata"]["name"].name(),
        uid=uid_of(root, ""),
        tier=Tier[spec["tier"].choice("Admin", "Baseline").upper()],
        priority=spec["priority"].whole(0, 1000),
        namespaces=namespaces,
        pods=pods,
        ingress=tuple(read(rule, "from") for rule in spec["ingress"].items(most=_MAX_ITEMS)),
        egress=tuple(read(rule, "to") for rule in spec["egress"].items(most=_MAX_ITEMS)),
        audit=is_audited(root),
    )


def _subject(subject: Field) -> tuple[Selector, Selector]:
    """ "Exactly one field must be set." """
    field = subject.only("namespaces", "pods")
    return (read_selector(field), Selector()) if field.path.endswith(".namespaces") else _namespaced(field)


def _namespaced(field: Field) -> tuple[Selector, Selector]:
    """A NamespacedPod: an empty namespaceSelector "selects all Namespaces"; "podSelector ... if empty ... all Pods"."""
    if not field["podSelector"].is_set:
        field["podSelector"].fail("is required")
    return read_selector(field["namespaceSelector"]), read_selector(field["podSelector"])


def _rule(rule: Field, peers: str) -> ClusterRule:
    name = rule["name"].text("")
    if len(name) > 100:
        rule["name"].fail("must be no longer than 100 characters")
    action = Action(rule["action"].choice(*(one.value for one in Action)))
    ports = tuple(port for protocol in rule["protocols"].items(least=1, most=_MAX_ITEMS) for port in _ports(protocol))
    named = any(isinstance(port.port, str) for port in ports)
    if not rule[peers].is_set:
        rule[peers].fail("is required")
    found = tuple(
        made
        for peer in rule[peers].items(least=1, most=_MAX_ITEMS)
        for made in _peers(peer, egress=peers == "to", named_ports=named)
    )
    return ClusterRule(action, found, ports, name)


def _closed_rule(rule: Field, peers: str) -> ClusterRule:
    try:
        return _rule(rule, peers)
    except InvalidObjectError:
        if rule["action"].value == Action.ACCEPT.value:
            return ClusterRule(Action.ACCEPT, ())
        return ClusterRule(Action.DENY, ANYWHERE)


def _deny_only(rule: Field, peers: str) -> ClusterRule:
    read = _closed_rule(rule, peers)
    return read if read.action is Action.DENY else ClusterRule(read.action, ())


def _peers(peer: Field, *, egress: bool, named_ports: bool) -> list[Peer]:
    """Parse one element of ``from`` or ``to``. Each of its ``networks`` is a peer."""
    kinds = ("namespaces", "pods", "nodes", "networks", "domainNames") if egress else ("namespaces", "pods")
    field = peer.only(*kinds)
    kind = field.path.rpartition(".")[2]
    if named_ports and kind in _PEERS_WITHOUT_PORT_NAMES:
        field.fail("cannot be set together with destinationNamedPort: only pods have named ports")
    if kind == "domainNames":
        field.fail("is not supported, because the addresses of a name are not known; use networks")
    if kind == "networks":
        return _networks(field)
    if kind == "nodes":
        return [Peer(nodes=read_selector(field))]
    return [Peer(*(_namespaced(field) if kind == "pods" else (read_selector(field), Selector())))]


def _networks(field: Field) -> list[Peer]:
    texts = [entry.text() for entry in field.items(least=1, most=_MAX_ITEMS)]
    if len(set(texts)) < len(texts):
        field.fail("must not have a CIDR twice")
    return [Peer(ip_block=IPBlock(str(entry.network()))) for entry in field.items()]


def _ports(protocol: Field) -> list[PolicyPort]:
    """A ClusterNetworkPolicyProtocol. A port's name means "a destination port on a pod", whatever its protocol."""
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
    first, last = port["start"].port(), port["end"].port()
    if first >= last:
        port.fail(f"start must be less than end, is {first} to {last}")
    return [PolicyPort(transport, first, last)]
