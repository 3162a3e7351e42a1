"""What a person types for the two ends of a connection, and who that is: pure, and strict about what cannot be known.

shop/web-0              a pod by name; a hostNetwork pod is its node
10.0.0.1, fd00::1       an address: of a pod, a node, a Service, or of nobody known
data/db-0:5432/TCP      a destination: with a port (a number, or a name of the pod's), TCP unless it says otherwise
[fd00::1]:443, data/db-0/ICMP
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
_NEAR: Final = 5


class QuerySyntaxError(ValueError):
    """The words name no end of a connection; the message says what to write."""


class UnanswerableError(Exception):
    """The words are good, and the cluster cannot say who or what is meant; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class EndQuery:
    """What was typed, taken apart. One of ``pod`` and ``ip`` is given. ``protocol`` None: ICMP."""

    text: str
    pod: Name | None = None
    ip: str = ""
    port: str = ""
    protocol: Protocol | None = Protocol.TCP


@dataclass(frozen=True, slots=True)
class End:
    """An end that the cluster was asked about."""

    kind: str
    """pod, hostNetwork (a pod that is its node), node, service, address."""
    name: str
    """namespace/name of a pod or a Service, the name of a node, or the address."""
    ips: tuple[str, ...]
    """At most one a family."""
    pod: Pod | None = None
    """The pod whose policies are asked; None for all but the kind pod."""
    notes: tuple[str, ...] = field(default=())


def parse_source(text: str) -> EndQuery:
    """A pod or an address. Raises EndError."""
    typed = _read(text)
    if typed.port or typed.protocol is not Protocol.TCP:
        raise QuerySyntaxError(f"{text!r}: the source has no port; write NAMESPACE/POD or an address")
    return typed


def parse_destination(text: str) -> EndQuery:
    """A pod or an address, with a port unless it is ICMP. Raises EndError."""
    typed = _read(text)
    if typed.protocol is None and typed.port:
        raise QuerySyntaxError(f"{text!r}: ICMP has no port; write {text.replace(f':{typed.port}', '')}")
    if typed.protocol is not None and not typed.port:
        shown = "[V6ADDRESS]" if ":" in typed.ip else typed.ip or str(typed.pod)
        raise QuerySyntaxError(f"{text!r}: which port? Write {shown}:PORT, {shown}:PORT/UDP or {shown}/ICMP")
    return typed


def _read(text: str) -> EndQuery:
    bare = _address(text)
    if bare is not None:
        return EndQuery(text, ip=bare)
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise QuerySyntaxError(
            f"{text!r}: write NAMESPACE/POD:PORT, ADDRESS:PORT or [V6ADDRESS]:PORT, /UDP or /SCTP behind it"
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
            raise QuerySyntaxError(f"{text!r}: a port is 1 to 65535")
        return str(int(port))
    return port


def _protocol(text: str, protocol: str | None) -> Protocol | None:
    name = (protocol or "TCP").upper()
    if name in ("ICMP", "ICMPV6"):
        return None
    if name not in Protocol.__members__:
        raise QuerySyntaxError(f"{text!r}: {protocol} is no protocol here; write TCP, UDP, SCTP or ICMP")
    return Protocol[name]


# --- who it is


def find(view: PolicyView, services: Mapping[Name, Service], typed: EndQuery) -> End:
    """Who was meant. Raises UnknownEndError."""
    return _by_name(view, typed.pod) if typed.pod is not None else _by_address(view, services, typed.ip)


def _by_name(view: PolicyView, name: Name) -> End:
    pod = view.pods.get(name)
    if pod is None:
        raise UnanswerableError(f"there is no pod {name}{similar_names(view, name)}")
    if pod.host_network:
        node = view.nodes.get(Name("", pod.node))
        ips = pod.ips or (node.ips if node else ())
        if not ips:
            raise UnanswerableError(f"{name} has hostNetwork, and the addresses of its node {pod.node} are not known")
        note = f"{name} has hostNetwork: to policies it is its node, {pod.node}, and none selects it"
        return End("hostNetwork", str(name), ips, notes=(note,))
    if pod.terminated:
        raise UnanswerableError(f"{name} has terminated (Succeeded or Failed): it has no address and no connections")
    if not pod.ips:
        raise UnanswerableError(
            f"{name} has no address yet (status.podIPs): wait until it runs, or give the manifest a status"
        )
    notes = [
        f"{ip} of {name} is also claimed by {holder.key}, which started later: the dataplane takes it for that one"
        for ip in pod.ips
        if (holder := endpoint_at(view, ip).pod) is not None and holder.key != name
    ]
    return End("pod", str(name), pod.ips, pod, tuple(notes))


def similar_names(view: PolicyView, name: Name) -> str:
    """What else the name may have meant, as the end of a sentence."""
    here = [pod for pod in sorted(view.pods) if pod.namespace == name.namespace]
    alike = difflib.get_close_matches(name.name, [pod.name for pod in here], _NEAR, 0.6)
    found = [pod for pod in here if pod.name.startswith(name.name)]
    found += [Name(name.namespace, one) for one in alike]
    found += [pod for pod in sorted(view.pods) if pod.name.startswith(name.name)]
    near = list(dict.fromkeys(map(str, found)))[:_NEAR]
    if near:
        return f"; near it: {', '.join(near)}"
    if Name("", name.namespace) not in view.namespaces:
        known = ", ".join(sorted(made.name for made in view.namespaces.values())[:_NEAR])
        return f", and no namespace {name.namespace}; there are {known or 'none'}"
    return f"; namespace {name.namespace} has {', '.join(map(str, here[:_NEAR])) or 'none'}"


def _by_address(view: PolicyView, services: Mapping[Name, Service], ip: str) -> End:
    pod = endpoint_at(view, ip).pod
    if pod is not None:
        return End("pod", str(pod.key), (ip,), pod, (f"{ip} is pod {pod.key}",))
    for service in services.values():
        if ip in service.cluster_ips:
            return End("service", str(service.key), (ip,))
    for node in view.nodes.values():
        if ip in node.ips:
            return End("node", node.name, (ip,), notes=(f"{ip} is node {node.name}: no policy selects a node",))
    for former in view.pods.values():
        if ip in former.ips and former.terminated:
            note = f"{ip} was pod {former.key}'s, which has terminated: it is nobody's now"
            return End("address", ip, (ip,), notes=(note,))
    return End("address", ip, (ip,), notes=(f"{ip} is no pod's, node's or Service's known here: an outside address",))


def destination_port(end: End, typed: EndQuery) -> tuple[int, tuple[str, ...]]:
    """The destination port's number, and what to say of a name. Raises UnknownEndError."""
    if typed.protocol is None:
        return 0, ("ICMP has no port, so no rule that lists ports matches it: only a rule without ports does",)
    if typed.port.isdigit():
        return int(typed.port), ()
    named = end.pod.ports if end.pod else ()
    numbers = sorted(resolve_named_port(named, typed.port, typed.protocol))
    if len(numbers) == 1:
        return numbers[0], (f"{typed.port} is {numbers[0]}/{typed.protocol.name} on {end.name}",)
    what = f"{typed.port!r} is several {typed.protocol.name} ports" if numbers else (
        f"no {typed.protocol.name} port is named {typed.port!r}"
    )  # fmt: skip
    has = ", ".join(f"{one.name}={one.port}/{one.protocol.name}" for one in named) or "no named ports"
    raise UnanswerableError(f"{what} on {end.name}, which has {has}; write the port's number")
