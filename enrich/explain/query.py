"""Parses what a person types for the two ends of a connection, and finds those ends in the cluster.

Examples of ends:

    shop/web-0              a pod by name; a hostNetwork pod is its node
    10.0.0.1, fd00::1       an address: of a pod, a node, a Service, or outside the cluster
    data/db-0:5432/TCP      a destination, with a port number or the name of a container port; TCP is the default
    [fd00::1]:443
    data/db-0/ICMP          ICMP has no port
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from enrich.model import Name, Pod, Protocol, Service
from enrich.policy.matching import PolicyView, endpoint_at, resolve_named_port

_SHAPE: Final = re.compile(
    r"(?:\[(?P<six>[^\]]+)\]|(?P<pod>[^/:.\[\]]+/[^/:\[\]]+)|(?P<other>[^/:\[\]]+))"
    r"(?::(?P<port>[^/:]+))?(?:/(?P<protocol>[^/:]+))?"
)
_MAX_SUGGESTIONS: Final = 5


class QuerySyntaxError(ValueError):
    """The text cannot be parsed as an end of a connection. The message says what to write."""


class UnanswerableError(Exception):
    """The text is well formed, but the cluster cannot answer. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class EndQuery:
    """What was query, in parts. Either ``pod`` or ``ip`` is set. ``protocol`` None means ICMP."""

    text: str
    pod: Name | None = None
    ip: str = ""
    port: str = ""
    protocol: Protocol | None = Protocol.TCP


@dataclass(frozen=True, slots=True)
class ResolvedEnd:
    """One end of a connection, as found in the cluster."""

    kind: str
    """pod, hostNetwork (a pod that policies see as its node), node, service or address."""
    name: str
    """namespace/name of a pod or a Service, the name of a node, or the address."""
    ips: tuple[str, ...]
    """At most one per family."""
    pod: Pod | None = None
    """The pod whose policies decide; None unless ``kind`` is pod."""
    notes: tuple[str, ...] = field(default=())


def parse_source(text: str) -> EndQuery:
    """Parse a source: a pod or an address. Raises QuerySyntaxError."""
    query = _read(text)
    if query.port or query.protocol is not Protocol.TCP:
        raise QuerySyntaxError(f"{text!r}: a source takes no port and no protocol: write NAMESPACE/POD or an address")
    return query


def parse_destination(text: str) -> EndQuery:
    """Parse a destination: a pod or an address, with a port unless it is ICMP. Raises QuerySyntaxError."""
    query = _read(text)
    if query.protocol is None and query.port:
        raise QuerySyntaxError(f"{text!r}: ICMP has no port; write {text.replace(f':{query.port}', '')}")
    if query.protocol is not None and not query.port:
        shown = "[V6ADDRESS]" if ":" in query.ip else query.ip or str(query.pod)
        raise QuerySyntaxError(f"{text!r}: a port is missing: write {shown}:PORT, {shown}:PORT/UDP or {shown}/ICMP")
    return query


def _read(text: str) -> EndQuery:
    bare = _address(text)
    if bare is not None:
        return EndQuery(text, ip=bare)
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise QuerySyntaxError(
            f"{text!r}: write NAMESPACE/POD:PORT, ADDRESS:PORT or [V6ADDRESS]:PORT, then /UDP or /SCTP if not TCP"
        )
    port, protocol = _port(text, found["port"]), _protocol(text, found["protocol"])
    if found["pod"]:
        return EndQuery(text, pod=Name(*found["pod"].split("/")), port=port, protocol=protocol)
    ip = _address(found["six"] or found["other"])
    if ip is None:
        raise QuerySyntaxError(f"{text!r}: {found['six'] or found['other']!r} is neither NAMESPACE/POD nor an address")
    return EndQuery(text, ip=ip, port=port, protocol=protocol)


def _address(text: str) -> str | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if found.version == 6 else None
    return str(mapped or found)


def _port(text: str, port: str | None) -> str:
    if port is None:
        return ""
    if port.isdigit():
        if not 0 < int(port) < 1 << 16:
            raise QuerySyntaxError(f"{text!r}: a port must be between 1 and 65535")
        return str(int(port))
    return port


def _protocol(text: str, protocol: str | None) -> Protocol | None:
    name = (protocol or "TCP").upper()
    if name in ("ICMP", "ICMPV6"):
        return None
    if name not in Protocol.__members__:
        raise QuerySyntaxError(f"{text!r}: unknown protocol {protocol}; write TCP, UDP, SCTP or ICMP")
    return Protocol[name]


# --- finding the ends in the cluster


def resolve_end(view: PolicyView, services: Mapping[Name, Service], query: EndQuery) -> ResolvedEnd:
    """Find the end in the cluster. Raises UnanswerableError."""
    return _by_name(view, query.pod) if query.pod is not None else _by_address(view, services, query.ip)


def _by_name(view: PolicyView, name: Name) -> ResolvedEnd:
    pod = view.pods.get(name)
    if pod is None:
        raise UnanswerableError(f"there is no pod {name}{similar_names(view, name)}")
    if pod.host_network:
        node = view.nodes.get(Name("", pod.node))
        ips = pod.ips or (node.ips if node else ())
        if not ips:
            raise UnanswerableError(f"{name} uses hostNetwork, but the addresses of its node {pod.node} are not known")
        note = f"{name} uses hostNetwork: policies see it as its node, {pod.node}, and no policy selects it"
        return ResolvedEnd("hostNetwork", str(name), ips, notes=(note,))
    if pod.terminated:
        raise UnanswerableError(f"{name} has terminated (Succeeded or Failed): it has no address and no connections")
    if not pod.ips:
        raise UnanswerableError(
            f"{name} has no address yet (status.podIPs): wait until it runs, or give the manifest a status"
        )
    notes = [
        f"{ip} of {name} is also claimed by {holder.key}, which started later: traffic with it is judged as that pod's"
        for ip in pod.ips
        if (holder := endpoint_at(view, ip).pod) is not None and holder.key != name
    ]
    return ResolvedEnd("pod", str(name), pod.ips, pod, tuple(notes))


def similar_names(view: PolicyView, name: Name) -> str:
    """Return the end of a sentence that suggests other names."""
    here = [pod for pod in sorted(view.pods) if pod.namespace == name.namespace]
    alike = difflib.get_close_matches(name.name, [pod.name for pod in here], _MAX_SUGGESTIONS, 0.6)
    found = [pod for pod in here if pod.name.startswith(name.name)]
    found += [Name(name.namespace, one) for one in alike]
    found += [pod for pod in sorted(view.pods) if pod.name.startswith(name.name)]
    near = list(dict.fromkeys(map(str, found)))[:_MAX_SUGGESTIONS]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if Name("", name.namespace) not in view.namespaces:
        known = ", ".join(sorted(made.name for made in view.namespaces.values())[:_MAX_SUGGESTIONS])
        return f", and no namespace {name.namespace}; known namespaces: {known or 'none'}"
    return f"; pods of namespace {name.namespace}: {', '.join(map(str, here[:_MAX_SUGGESTIONS])) or 'none'}"


def _by_address(view: PolicyView, services: Mapping[Name, Service], ip: str) -> ResolvedEnd:
    pod = endpoint_at(view, ip).pod
    if pod is not None:
        return ResolvedEnd("pod", str(pod.key), (ip,), pod, (f"{ip} is pod {pod.key}",))
    for service in services.values():
        if ip in service.cluster_ips:
            return ResolvedEnd("service", str(service.key), (ip,))
    for node in view.nodes.values():
        if ip in node.ips:
            return ResolvedEnd("node", node.name, (ip,), notes=(f"{ip} is node {node.name}: no policy selects a node",))
    for former in view.pods.values():
        if ip in former.ips and former.terminated:
            note = f"{ip} was the address of pod {former.key}, which has terminated: no pod has it now"
            return ResolvedEnd("address", ip, (ip,), notes=(note,))
    note = f"no known pod, node or Service has {ip}: it counts as an address outside the cluster"
    return ResolvedEnd("address", ip, (ip,), notes=(note,))


def destination_port(end: ResolvedEnd, query: EndQuery) -> tuple[int, tuple[str, ...]]:
    """Return the destination port's number, and notes about it. Raises UnanswerableError."""
    if query.protocol is None:
        return 0, ("ICMP has no ports, so only rules that list no ports match it",)
    if query.port.isdigit():
        return int(query.port), ()
    named = end.pod.ports if end.pod else ()
    numbers = sorted(resolve_named_port(named, query.port, query.protocol))
    if len(numbers) == 1:
        return numbers[0], (f"{query.port} is {numbers[0]}/{query.protocol.name} on {end.name}",)
    matches = "several ports are" if numbers else "no port is"
    what = f"{matches} named {query.port!r} ({query.protocol.name})"
    has = ", ".join(f"{port.name}={port.port}/{port.protocol.name}" for port in named) or "no named ports"
    raise UnanswerableError(f"{what} on {end.name}, which has {has}; write a port number")
