"""The API's JSON to the slim objects of :mod:`enrich.model`, refusing what the API server would refuse.

Only what policy and enrichment use is read and checked. Kinds that they do not use are None, not errors.
"""

from __future__ import annotations

import datetime
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from enrich.fields import Field, InvalidObjectError
from enrich.model import (
    IPBlock,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Operator,
    Owner,
    Peer,
    Pod,
    PolicyPort,
    Protocol,
    Requirement,
    Rule,
    Selector,
    Service,
    Workload,
)

__all__ = ["InvalidObjectError", "parse"]

NAME_LABEL: Final = "kubernetes.io/metadata.name"
_ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_PORT_NAME: Final = re.compile(r"(?=[a-z0-9-]{1,15}$)(?!.*--)[a-z0-9-]*[a-z][a-z0-9-]*")
_UIDS: Final = uuid.UUID("8c0b5f0e-3a55-5d0e-9a3c-6b7765697200")


def parse(document: Mapping[str, Any]) -> Object | None:
    """The object, or None for a kind that nobody here uses. Raises :class:`InvalidObjectError`."""
    root = Field("", document)
    if not isinstance(document, Mapping):
        root.fail("must be an object")
    version, kind = root["apiVersion"].text(), root["kind"].text()
    known = _KINDS.get(kind)
    if known is None:
        return None
    wanted, read = known
    if version != wanted:
        if version.partition("/")[0] not in _OWN_GROUPS:
            return None
        root["apiVersion"].fail(f"{kind} is {wanted}, not {version}")
    return read(root)


def _namespace_of(root: Field) -> str:
    field = root["metadata"]["namespace"]
    return field.name() if field.is_set else "default"


def _uid(root: Field, namespace: str) -> str:
    """Of an object from a manifest, which has none: one that is the same each time."""
    given = root["metadata"]["uid"].text("")
    kind, name = root["kind"].value, root["metadata"]["name"].value
    return given or str(uuid.uuid5(_UIDS, f"{kind}/{namespace}/{name}"))


def _labels(root: Field) -> dict[str, str]:
    # Keys and values recur by the thousand: interned, they are one object each.
    labels = root["metadata"]["labels"].labels()
    return {sys.intern(key): sys.intern(value) for key, value in labels.items()}


def _owner(root: Field) -> Owner | None:
    for reference in root["metadata"]["ownerReferences"].items():
        if reference["controller"].boolean():
            return Owner(reference["kind"].text(), reference["name"].text(), reference["uid"].text(""))
    return None


def _pod(root: Field) -> Pod:
    namespace, spec, status = _namespace_of(root), root["spec"], root["status"]
    given = [entry["ip"].ip() for entry in status["podIPs"].items()]
    if not given and status["podIP"].value:
        given = [status["podIP"].ip()]
    return Pod(
        namespace=sys.intern(namespace),
        name=root["metadata"]["name"].name(),
        uid=_uid(root, namespace),
        labels=_labels(root),
        ips=tuple(given),
        node=sys.intern(spec["nodeName"].text("")),
        host_network=spec["hostNetwork"].boolean(),
        terminated=status["phase"].text("") in ("Succeeded", "Failed"),
        ports=tuple(_container_ports(spec)),
        owner=_owner(root),
        started_ns=_started(status),
        begun_ns=_nanoseconds(status["startTime"]),
    )


def _container_ports(spec: Field) -> list[NamedPort]:
    """Named ports of the containers, and of init containers that go on running (restartPolicy Always)."""
    found = []
    containers = list(spec["containers"].items())
    containers += [c for c in spec["initContainers"].items() if c["restartPolicy"].value == "Always"]
    for container in containers:
        for port in container["ports"].items():
            number = port["containerPort"].port()
            protocol = Protocol[port["protocol"].choice("TCP", "UDP", "SCTP", default="TCP")]
            if port["name"].is_set:
                found.append(NamedPort(port["name"].text(), number, protocol))
    return found


def _started(status: Field) -> int:
    for condition in status["conditions"].items():
        if condition["type"].value == "PodReadyToStartContainers" and condition["status"].value == "True":
            return _nanoseconds(condition["lastTransitionTime"])
    return _nanoseconds(status["startTime"])


def _nanoseconds(field: Field) -> int:
    if not field.is_set:
        return 0
    # YAML reads an unquoted time as a time.
    when = field.value
    if not isinstance(when, datetime.datetime):
        try:
            when = datetime.datetime.fromisoformat(field.text())
        except ValueError:
            field.fail(f"{field.value!r} is no RFC 3339 time")
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return int(when.timestamp()) * 1_000_000_000


def _namespace(root: Field) -> Namespace:
    name = root["metadata"]["name"].name()
    return Namespace(name, _uid(root, ""), {**_labels(root), NAME_LABEL: name})


def _node(root: Field) -> Node:
    labels = _labels(root)
    addresses = root["status"]["addresses"].items()
    ips = tuple(a["address"].ip() for a in addresses if a["type"].value in ("InternalIP", "ExternalIP"))
    return Node(root["metadata"]["name"].name(), _uid(root, ""), labels, ips, labels.get(_ZONE_LABEL, ""))


def _service(root: Field) -> Service:
    namespace, spec = _namespace_of(root), root["spec"]
    given = list(spec["clusterIPs"].items()) or [spec["clusterIP"]]
    ips = tuple(entry.ip() for entry in given if entry.text("") not in ("", "None"))
    return Service(namespace, root["metadata"]["name"].name(), _uid(root, namespace), ips)


def _workload(root: Field) -> Workload:
    namespace = _namespace_of(root)
    name = root["metadata"]["name"].name()
    return Workload(root["kind"].text(), namespace, name, _uid(root, namespace), _owner(root))


def _policy(root: Field) -> NetworkPolicy:
    namespace, spec = _namespace_of(root), root["spec"]
    if not spec.is_set:
        spec.fail("is required")
    types = [entry.choice("Ingress", "Egress") for entry in spec["policyTypes"].items()]
    if not types:
        # "If this field is not specified, it will default based on the existence of ingress or egress rules;
        # policies that contain an egress section are assumed to affect egress, and all policies (whether or not they
        # contain an ingress section) are assumed to affect ingress."
        types = ["Ingress", *(["Egress"] if next(spec["egress"].items(), None) else [])]
    ingress = tuple(_rule(rule, "from") for rule in spec["ingress"].items())
    egress = tuple(_rule(rule, "to") for rule in spec["egress"].items())
    return NetworkPolicy(
        namespace=namespace,
        name=root["metadata"]["name"].name(),
        uid=_uid(root, namespace),
        pods=_selector(spec["podSelector"]),
        ingress=ingress if "Ingress" in types else None,
        egress=egress if "Egress" in types else None,
    )


def _rule(rule: Field, peers: str) -> Rule:
    return Rule(
        tuple(_peer(peer) for peer in rule[peers].items()), tuple(_policy_port(port) for port in rule["ports"].items())
    )


def _peer(peer: Field) -> Peer:
    block, namespaces, pods = peer["ipBlock"], peer["namespaceSelector"], peer["podSelector"]
    if not (block.is_set or namespaces.is_set or pods.is_set):
        peer.fail("must specify a peer: podSelector, namespaceSelector or ipBlock")
    if not block.is_set:
        return Peer(
            _selector(namespaces) if namespaces.is_set else None, _selector(pods) if pods.is_set else None, None
        )
    if namespaces.is_set or pods.is_set:
        peer.fail("may not specify both ipBlock and another peer")
    cidr = block["cidr"].network()
    for hole in block["except"].items():
        inner = hole.network()
        if inner.version != cidr.version or not inner.subnet_of(cidr) or inner == cidr:  # type: ignore[arg-type]  # one version
            hole.fail(f"must be a strict subset of {cidr}, is {inner}")
    return Peer(ip_block=IPBlock(str(cidr), tuple(str(hole.network()) for hole in block["except"].items())))


def _policy_port(port: Field) -> PolicyPort:
    protocol = Protocol[port["protocol"].choice("TCP", "UDP", "SCTP", default="TCP")]
    number, end = port["port"], port["endPort"]
    if isinstance(number.value, str):
        if not _PORT_NAME.fullmatch(number.value):
            number.fail(f"{number.value!r} is neither a number nor a port's name")
        if end.is_set:
            end.fail("may not be specified when port is a name")
        return PolicyPort(protocol, number.value)
    if not number.is_set:
        if end.is_set:
            end.fail("may not be specified when port is not specified")
        return PolicyPort(protocol)
    first = number.port()
    if not end.is_set:
        return PolicyPort(protocol, first)
    last = end.port()
    if last < first:
        end.fail(f"must be greater than or equal to port {first}, is {last}")
    return PolicyPort(protocol, first, last)


def _selector(field: Field) -> Selector:
    if field.is_set and not isinstance(field.value, Mapping):
        field.fail("must be an object")
    wanted = [Requirement(key, Operator.IN, (value,)) for key, value in sorted(field["matchLabels"].labels().items())]
    for expression in field["matchExpressions"].items():
        operator = Operator(expression["operator"].choice(*(o.value for o in Operator)))
        values = tuple(value.label_value() for value in expression["values"].items())
        if operator in (Operator.IN, Operator.NOT_IN) and not values:
            expression["values"].fail(f"must be specified when operator is {operator.value}")
        if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
            expression["values"].fail(f"may not be specified when operator is {operator.value}")
        wanted.append(Requirement(expression["key"].label_key(), operator, values))
    return Selector(tuple(wanted))


_KINDS: Final[dict[str, tuple[str, Callable[[Field], Object]]]] = {
    "Pod": ("v1", _pod),
    "Namespace": ("v1", _namespace),
    "Node": ("v1", _node),
    "Service": ("v1", _service),
    "ReplicaSet": ("apps/v1", _workload),
    "Job": ("batch/v1", _workload),
    "NetworkPolicy": ("networking.k8s.io/v1", _policy),
}
_OWN_GROUPS: Final = {"v1", "apps", "extensions", "batch", "networking.k8s.io"}
"""Groups in which one of our kinds with another version is a mistake, not somebody else's kind (Knative's Service)."""
