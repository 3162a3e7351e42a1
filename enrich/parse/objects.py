"""Parses the API's JSON into the objects of :mod:`enrich.model`, and refuses what the API server would refuse.

Only the fields that policy and records use are read and checked. An object of a kind that nothing here uses is None,
and not an error.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from enrich.label_selector import NAMESPACE_LABEL
from enrich.model import (
    POLICY_API_VERSIONS,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    ClusterNetworkPolicy,
    EndpointSlice,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Protocol,
    Service,
    Workload,
)
from enrich.network_logging import NETWORK_LOGGING_API_VERSION, NetworkLogging
from enrich.parse.admin_network_policy import admin_network_policy, baseline_admin_network_policy
from enrich.parse.cluster_network_policy import cluster_network_policy
from enrich.parse.cursor import Field, InvalidObjectError
from enrich.parse.metadata import DENY_LOGGING, annotation_of, is_audited, labels_of, namespace_of, owner_of, uid_of
from enrich.parse.network_logging import network_logging
from enrich.parse.network_policy import network_policy
from enrich.parse.node_addresses import reserved_addresses, tunnel_addresses

__all__ = ["InvalidObjectError", "parse"]

_SERVICE_LABEL: Final = "kubernetes.io/service-name"
_ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"


def parse(
    document: Mapping[str, Any], problems: list[InvalidObjectError] | None = None, *, exhaustive: bool = False
) -> Object | None:
    """Parse an object; None for a kind that nothing here uses. Raises :class:`InvalidObjectError`.

    With ``problems`` it reads leniently (see :mod:`enrich.parse.cursor`), and adds to them what it had to leave out;
    exhaustively, it adds every mistake that it finds.
    """
    root = Field("", document, problems, exhaustive)
    if not isinstance(document, Mapping):
        root.fail("must be an object")
    version, kind = root["apiVersion"].text(), root["kind"].text()
    known = _KINDS.get(kind)
    if known is None:
        return None
    expected, read = known
    if version != expected and (root["apiVersion"].is_set or not root["metadata"].is_set):
        if version.partition("/")[0] not in _OWN_GROUPS:
            return None
        root["apiVersion"].refuse(f"{kind} must be {expected}, is {version}")
    return read(root)


def _pod(root: Field) -> Pod:
    namespace, spec, status = namespace_of(root), root["spec"], root["status"]
    given = [entry["ip"].ip() for entry in status["podIPs"].items()]
    if not given and status["podIP"].value:
        given = [status["podIP"].ip()]
    return Pod(
        namespace=sys.intern(namespace),
        name=root["metadata"]["name"].name(),
        uid=uid_of(root, namespace),
        labels=labels_of(root),
        ips=tuple(given),
        node=sys.intern(spec["nodeName"].text("")),
        host_network=spec["hostNetwork"].boolean(),
        terminated=status["phase"].text("") in ("Succeeded", "Failed"),
        ports=tuple(port for port in container_ports(spec) if port.name),
        owner=owner_of(root),
        started_ns=_started(status),
        acknowledged_ns=_nanoseconds(status["startTime"]),
        static_uid=root["metadata"]["annotations"][_MIRROR_ANNOTATION].text(""),
    )


def container_ports(spec: Field) -> list[NamedPort]:
    """Parse the ports of containers, also of sidecars: init containers with restartPolicy Always. The name of a port
    that has none is empty."""
    found = []
    containers = list(spec["containers"].items())
    containers += [c for c in spec["initContainers"].items() if c["restartPolicy"].value == "Always"]
    for container in containers:
        for port in container["ports"].items():
            number = port["containerPort"].survey(Field.port) or 0
            protocol = Protocol[port["protocol"].choice("TCP", "UDP", "SCTP", default="TCP")]
            found.append(NamedPort(port["name"].text(""), number, protocol))
    return found


def _started(status: Field) -> int:
    for condition in status["conditions"].items():
        if condition["type"].value == "PodReadyToStartContainers" and condition["status"].value == "True":
            return _nanoseconds(condition["lastTransitionTime"])
    return _nanoseconds(status["startTime"])


def _nanoseconds(field: Field) -> int:
    if not field.is_set:
        return 0
    # YAML turns an unquoted time into a datetime.
    when = field.value
    if not isinstance(when, datetime.datetime):
        try:
            when = datetime.datetime.fromisoformat(field.text())
        except ValueError:
            field.refuse(f"{field.value!r} is not an RFC 3339 time")
            return 0
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return int(when.timestamp()) * 1_000_000_000


def _namespace(root: Field) -> Namespace:
    name = root["metadata"]["name"].name()
    labels = {**labels_of(root), NAMESPACE_LABEL: name}
    return Namespace(name, uid_of(root, ""), labels, is_audited(root), annotation_of(root, DENY_LOGGING))


def _node(root: Field) -> Node:
    labels = labels_of(root)
    addresses = root["status"]["addresses"].items()
    ips = tuple(a["address"].ip() for a in addresses if a["type"].value in ("InternalIP", "ExternalIP"))
    ranges = list(root["spec"]["podCIDRs"].items()) or [root["spec"]["podCIDR"]]
    pod_cidrs = tuple(str(entry.survey(Field.old_network)) for entry in ranges if entry.text(""))
    name, zone = root["metadata"]["name"].name(), labels.get(_ZONE_LABEL, "")
    annotations = root["metadata"]["annotations"].value
    texts = annotations if isinstance(annotations, Mapping) else {}
    tunnels, reserved = tunnel_addresses(texts), reserved_addresses(texts, filter(None, pod_cidrs))
    return Node(name, uid_of(root, ""), labels, ips, zone, pod_cidrs, tunnels, reserved)


def _service(root: Field) -> Service:
    namespace, spec = namespace_of(root), root["spec"]
    given = list(spec["clusterIPs"].items()) or [spec["clusterIP"]]
    ips = tuple(entry.ip() for entry in given if entry.text("") not in ("", "None"))
    balanced = (entry["ip"] for entry in root["status"]["loadBalancer"]["ingress"].items())
    outer = tuple(entry.ip() for entry in (*spec["externalIPs"].items(), *balanced) if entry.text(""))
    ports = tuple(_service_port(entry) for entry in spec["ports"].items())
    node_ports = tuple(_service_port(entry, "nodePort") for entry in spec["ports"].items() if entry["nodePort"].value)
    return Service(namespace, root["metadata"]["name"].name(), uid_of(root, namespace), ips, outer, ports, node_ports)


def _service_port(entry: Field, field: str = "port") -> tuple[int, int]:
    protocol = Protocol[entry["protocol"].choice("TCP", "UDP", "SCTP", default="TCP")]
    return int(protocol), entry[field].survey(Field.port) or 0


def _endpoint_slice(root: Field) -> EndpointSlice:
    namespace = namespace_of(root)
    given = root["endpoints"].items() if root["addressType"].value in ("IPv4", "IPv6") else ()
    return EndpointSlice(
        namespace,
        root["metadata"]["name"].name(),
        uid_of(root, namespace),
        labels_of(root).get(_SERVICE_LABEL, ""),
        tuple(address.ip() for endpoint in given for address in endpoint["addresses"].items()),
    )


def _workload(root: Field) -> Workload:
    namespace = namespace_of(root)
    name = root["metadata"]["name"].name()
    return Workload(root["kind"].text(), namespace, name, uid_of(root, namespace), owner_of(root))


_KINDS: Final[dict[str, tuple[str, Callable[[Field], Object]]]] = {
    "Pod": ("v1", _pod),
    "Namespace": ("v1", _namespace),
    "Node": ("v1", _node),
    "Service": ("v1", _service),
    "EndpointSlice": ("discovery.k8s.io/v1", _endpoint_slice),
    "ReplicaSet": ("apps/v1", _workload),
    "Job": ("batch/v1", _workload),
    NetworkPolicy.__name__: (POLICY_API_VERSIONS[NetworkPolicy], network_policy),
    ClusterNetworkPolicy.__name__: (POLICY_API_VERSIONS[ClusterNetworkPolicy], cluster_network_policy),
    AdminNetworkPolicy.__name__: (POLICY_API_VERSIONS[AdminNetworkPolicy], admin_network_policy),
    BaselineAdminNetworkPolicy.__name__: (
        POLICY_API_VERSIONS[BaselineAdminNetworkPolicy],
        baseline_admin_network_policy,
    ),
    NetworkLogging.__name__: (NETWORK_LOGGING_API_VERSION, network_logging),
}
API_VERSIONS: Final[Mapping[str, str]] = {kind: version for kind, (version, _) in _KINDS.items()}
"""The kinds that are used, with the version that is read."""
READ: Final = ", ".join(_KINDS)
"""The kinds that are used, in words."""
_OWN_GROUPS: Final = {
    "v1", "apps", "extensions", "batch", "networking.k8s.io", "discovery.k8s.io", "policy.networking.k8s.io",
    "networking.gke.io",
}  # fmt: skip
"""API groups in which a kind of the same name with another version is a mistake. In any other group it is another kind,
such as Knative's Service."""
