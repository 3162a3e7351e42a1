"""Parses a NetworkPolicy, and refuses what the API server would refuse (kubernetes, pkg/apis/networking)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import IPBlock, NetworkPolicy, Peer, PolicyPort, Protocol, Rule
from enrich.parse.cursor import Field
from enrich.parse.metadata import LOGGING, annotation_of, is_audited, namespace_of, uid_of

_PORT_NAME: Final = re.compile(r"(?=[a-z0-9-]{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
"""``IsValidPortName`` (apimachinery, util/validation)."""


NO_LABELS: Final = Selector((Requirement("kubeweir.io/unreadable", Operator.IN, ()),))
"""Selects nothing, because its list of values is empty. It stands for a selector that cannot be read."""
_NO_TRAFFIC: Final = Rule((Peer(pods=NO_LABELS),))
"""Stands for a rule that cannot be read at all, so that the rules after it keep their numbers."""


def network_policy(root: Field) -> NetworkPolicy:
    """Parse a networking.k8s.io/v1 NetworkPolicy. Raises :class:`enrich.parse.cursor.InvalidObjectError`.

    Leniently, what cannot be read matches nothing, and the rest holds: a peer or a port is left out of its rule, and a
    rule all of whose peers or ports are left out allows nothing. A policy whose ``podSelector`` cannot be read selects
    no pod. An unknown policy type counts as both.
    """
    namespace, spec = namespace_of(root), root["spec"]
    # The API server takes a missing spec for an empty one, which selects every pod and isolates it for ingress.
    types = _types(spec)
    ingress, egress = _rules(spec["ingress"], "from"), _rules(spec["egress"], "to")
    return NetworkPolicy(
        namespace=namespace,
        name=root["metadata"]["name"].name(),
        uid=uid_of(root, namespace),
        pods=spec["podSelector"].attempt(read_selector) or NO_LABELS,
        ingress=ingress if "Ingress" in types else None,
        egress=egress if "Egress" in types else None,
        audit=is_audited(root),
        logging=annotation_of(root, LOGGING),
    )


def _types(spec: Field) -> list[str]:
    both = ["Ingress", "Egress"]
    types = [entry.attempt(lambda field: field.choice(*both)) for entry in spec["policyTypes"].items(most=2)]
    if not types:
        # "If this field is not specified, it will default based on the existence of ingress or egress rules;
        # policies that contain an egress section are assumed to affect egress, and all policies (whether or not they
        # contain an ingress section) are assumed to affect ingress."
        return ["Ingress", *(["Egress"] if next(spec["egress"].items(), None) else [])]
    read = [known for known in types if known is not None]
    return read if len(read) == len(types) else both


def _rules(rules: Field, peers: str) -> tuple[Rule, ...]:
    return tuple(rule.attempt(lambda field: _rule(field, peers)) or _NO_TRAFFIC for rule in rules.items())


def _rule(rule: Field, peers: str) -> Rule:
    written_peers, written_ports = list(rule[peers].items()), list(rule["ports"].items())
    read_peers = [read for peer in written_peers if (read := peer.attempt(_peer)) is not None]
    read_ports = [found for port in written_ports if (found := port.attempt(_port)) is not None]
    if (written_peers and not read_peers) or (written_ports and not read_ports):
        # A rule without peers or ports would match all of them.
        return _NO_TRAFFIC
    return Rule(tuple(read_peers), tuple(read_ports))


def _peer(peer: Field) -> Peer | None:
    """Parse one element of ``from`` or ``to``; None if it is a block whose exceptions cover it."""
    block, namespaces, pods = peer["ipBlock"], peer["namespaceSelector"], peer["podSelector"]
    if not (block.is_set or namespaces.is_set or pods.is_set):
        peer.fail("must specify a peer: podSelector, namespaceSelector or ipBlock")
    if not block.is_set:
        return Peer(
            read_selector(namespaces) if namespaces.is_set else None, read_selector(pods) if pods.is_set else None, None
        )
    if namespaces.is_set or pods.is_set:
        peer.fail("may not specify both ipBlock and another peer")
    cidr = block["cidr"].survey(Field.old_network)
    excepts = []
    for hole in block["except"].items():
        inner = hole.survey(Field.old_network)
        if cidr is None or inner is None:
            continue
        if inner.version == cidr.version and inner.subnet_of(cidr) and inner != cidr:  # type: ignore[arg-type]  # one version
            excepts.append(str(inner))
            continue
        hole.complain(f"must be a strict subset of {cidr}, is {inner}")
        # Leniently, an exception outside the block is ignored, and one that contains the block removes all of it.
        if inner.overlaps(cidr):
            return None
    return Peer(ip_block=IPBlock(str(cidr), tuple(excepts)))


def _port(port: Field) -> PolicyPort:
    protocol = Protocol[port["protocol"].choice("TCP", "UDP", "SCTP", default="TCP")]
    number, end = port["port"], port["endPort"]
    if isinstance(number.value, str):
        if not _PORT_NAME.fullmatch(number.value):
            number.refuse(f"{number.value!r} is neither a number nor the name of a port")
        if end.is_set:
            end.refuse("may not be specified when port is a name")
        return PolicyPort(protocol, number.value)
    if not number.is_set:
        if end.is_set:
            end.refuse("may not be specified when port is not specified")
        return PolicyPort(protocol)
    first, last = number.survey(Field.port), end.survey(Field.port) if end.is_set else None
    if first is None or last is None:
        return PolicyPort(protocol, first)
    if last < first:
        end.refuse(f"must be greater than or equal to port {first}, is {last}")
    return PolicyPort(protocol, first, last)


def read_selector(field: Field) -> Selector:
    """Parse a ``metav1.LabelSelector``. An absent one counts as empty, and matches everything."""
    if field.is_set and not isinstance(field.value, Mapping):
        field.refuse("must be an object")
    requirements = [
        Requirement(key, Operator.IN, (value,)) for key, value in sorted(field["matchLabels"].labels().items())
    ]
    read = (expression.survey(_requirement) for expression in field["matchExpressions"].items())
    return Selector((*requirements, *(requirement for requirement in read if requirement is not None)))


def _requirement(expression: Field) -> Requirement:
    operator = Operator(expression["operator"].choice(*(o.value for o in Operator)))
    values = tuple(value.label_value() for value in expression["values"].items())
    if operator in (Operator.IN, Operator.NOT_IN) and not values:
        expression["values"].refuse(f"must be specified when operator is {operator.value}")
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
        expression["values"].refuse(f"may not be specified when operator is {operator.value}")
    return Requirement(expression["key"].label_key(), operator, values)
