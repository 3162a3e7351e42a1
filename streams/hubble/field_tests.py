"""What each field of Hubble's filters means for a record; see :mod:`streams.hubble.filters`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from enrich.wire.flow import Flow, NamedService, Side
from streams.hubble import words
from streams.hubble.labels import LabelSelector

Test = Callable[[Flow], bool]
NO_LAYER_7: Final = "a verdict is about a connection, and knows nothing of what is inside (HTTP, DNS)"
_MAX_NAME: Final = 253
"""Characters of a name of Kubernetes."""
_PROTOCOLS: Final[Mapping[str, frozenset[str]]] = {
    "icmp": frozenset({"icmp", "icmpv6"}), "icmpv4": frozenset({"icmp"}), "icmpv6": frozenset({"icmpv6"}),
    "tcp": frozenset({"tcp"}), "udp": frozenset({"udp"}), "sctp": frozenset({"sctp"}),
    "vrrp": frozenset({"112"}), "igmp": frozenset({"2"}),
}  # fmt: skip


def is_like(text: str, pattern: str) -> bool:
    """Return whether a name fits a pattern, in which ``*`` stands for any text."""
    if len(text) > _MAX_NAME:
        return False  # it is no name, and would be compared for as long as whoever wrote the record likes
    at, place, star, mark = 0, 0, -1, 0
    while at < len(text):
        if place < len(pattern) and pattern[place] == "*":
            star, mark, place = place, at, place + 1
        elif place < len(pattern) and pattern[place] == text[at]:
            at, place = at + 1, place + 1
        elif star >= 0:
            mark += 1
            at, place = mark, star + 1
        else:
            return False
    return all(one == "*" for one in pattern[place:])


def _side(name: str) -> Side:
    return "src" if name.startswith("source_") else "dest"


def _possible(values: Sequence[int], possible: set[int], hint: str) -> set[int]:
    """Return the values that a record can have. Raises ValueError if it is none of them."""
    found = set(values) & possible
    if not found:
        raise ValueError(f"no record fits {', '.join(map(str, sorted(set(values))))}: {hint}")
    return found


def _verdict(values: Sequence[int], _: Sequence[str]) -> Test:
    hint = "verdicts are FORWARDED (1), DROPPED (2) and AUDIT (4)"
    found = _possible(values, set(words.VERDICTS.values()), hint)
    return lambda flow: words.VERDICTS.get(flow.disposition) in found


def _event_type(values: Sequence[Any], _: Sequence[str]) -> Test:
    hint = "each record is a policy-verdict (5), and a denied one a drop (1), without a sub-type"
    types = [-1 if one.match_sub_type and one.sub_type else one.type for one in values]
    found = _possible(types, {words.UNKNOWN, words.DROP, words.POLICY_VERDICT}, hint)
    return lambda flow: found != {words.DROP} or flow.disposition == "deny"


def _drop_reason(values: Sequence[int], _: Sequence[str]) -> Test:
    known = {words.UNKNOWN, *words.DROP_REASONS.values()}
    found = _possible(values, known, "docs/hubble.md says which drop reasons records have")
    return lambda flow: flow.disposition == "deny" and words.drop_reason(flow) in found


def _reply(values: Sequence[bool], _: Sequence[str]) -> Test:
    _possible([*map(int, values)], {0}, "a record is about who opens a connection, so none is a reply")
    return lambda _: True


def _direction(values: Sequence[int], _: Sequence[str]) -> Test:
    found = _possible(values, set(words.DIRECTIONS.values()), "directions are INGRESS (1) and EGRESS (2)")
    return lambda flow: words.DIRECTIONS[flow.direction] in found


def _ip_version(values: Sequence[int], _: Sequence[str]) -> Test:
    found = set(values)
    return lambda flow: words.ip_version(flow.ip("src") or flow.ip("dest")) in found


def _protocol(values: Sequence[str], _: Sequence[str]) -> Test:
    found: set[str] = set()
    for value in values:
        name = value.lower()
        if name not in _PROTOCOLS:
            why = NO_LAYER_7 if name in {"dns", "http"} else f"protocols are {', '.join(_PROTOCOLS)}"
            raise ValueError(f"{value[:40]!r}: {why}")
        found |= _PROTOCOLS[name]
    return lambda flow: flow.protocol in found


def _uuid(values: Sequence[str], _: Sequence[str]) -> Test:
    found = frozenset(values)
    return lambda flow: flow.id in found


def _node(values: Sequence[str], _: Sequence[str]) -> Test:
    patterns = []
    for value in values:
        cluster, slash, node = value.lower().rpartition("/")
        if not value or "/" in cluster or not all(c.isalnum() or c in "-._*" for c in cluster + node):
            raise ValueError(f"{value[:40]!r} is no pattern such as node-*, CLUSTER/node-1 or CLUSTER/")
        patterns.append((cluster if slash and cluster else "*", node or "*"))
    return lambda flow: any(
        is_like(flow.cluster.lower(), cluster) and is_like(flow.node_name.lower(), node) for cluster, node in patterns
    )


def _ip(side: Side, values: Sequence[str], _: Sequence[str]) -> Test:
    addresses, networks = set(), []
    for value in values:
        try:
            if "/" in value:
                networks.append(ipaddress.ip_network(value, strict=False))
            else:
                addresses.add(str(ipaddress.ip_address(value)))
        except ValueError:
            raise ValueError(f"{value[:60]!r} is neither an address nor a network") from None

    def test(flow: Flow) -> bool:
        ip = flow.ip(side)
        if not ip or ip in addresses:
            return bool(ip)
        return bool(networks) and any(ipaddress.ip_address(ip) in network for network in networks)

    return test


def namespaced(text: str) -> tuple[str, str]:
    """Return namespace and name; as in Hubble, a name without a namespace is of the namespace ``default``."""
    namespace, slash, name = text.partition("/")
    return (namespace, name) if slash else ("default", text)


def _names(values: Sequence[str]) -> list[tuple[str, str]]:
    if not all(values):
        raise ValueError("a name is empty; write NAMESPACE/NAME, NAMESPACE/ or NAME (in the namespace default)")
    return [namespaced(value) for value in values]


def _fits(names: Sequence[tuple[str, str]], namespace: str, name: str) -> bool:
    if not namespace and not name:
        return False
    return any((not first or first == namespace) and name.startswith(start) for first, start in names)


def _pod(side: Side, values: Sequence[str], _: Sequence[str]) -> Test:
    names = _names(values)
    return lambda flow: _fits(names, flow.end(side).namespace, flow.end(side).pod_name)


def service_of(flow: Flow, side: Side) -> NamedService | None:
    """Return the Service at an end: the one that was dialled, or that an address outside belongs to."""
    dialled = flow.dialled.service if side == "dest" and flow.dialled else None
    return dialled or flow.end(side).service


def _service(side: Side, values: Sequence[str], _: Sequence[str]) -> Test:
    names = _names(values)

    def test(flow: Flow) -> bool:
        service = service_of(flow, side)
        return service is not None and _fits(names, service.namespace, service.name)

    return test


def _port(side: Side, values: Sequence[str], _: Sequence[str]) -> Test:
    if not all(value.isascii() and value.isdigit() and len(value) <= 5 and int(value) < 1 << 16 for value in values):
        raise ValueError(f"{', '.join(values)[:60]!r}: a port is a number up to 65535")
    ports = {int(value) for value in values}
    return lambda flow: (flow.connection.src_port if side == "src" else flow.connection.dest_port) in ports


def _workload(side: Side, values: Sequence[Any], _: Sequence[str]) -> Test:
    pairs = [(one.name, one.kind) for one in values]

    def test(flow: Flow) -> bool:
        end = flow.end(side)
        return bool(end.workload_name) and any(
            name in {"", end.workload_name} and kind in {"", end.workload_kind} for name, kind in pairs
        )

    return test


def _cluster(side: Side, values: Sequence[str], _: Sequence[str]) -> Test:
    return lambda flow: bool(flow.end(side).pod_name) and flow.cluster in values


def _identity(side: Side, values: Sequence[int], _: Sequence[str]) -> Test:
    hint = "records tell host (1), world (2) and remote-node (6); those of pods are numbers that only Cilium gives"
    found = _possible(values, set(words.IDENTITIES), hint)
    return lambda flow: words.identity(flow.end(side), flow.node_name) in found


def _label(side: Side, values: Sequence[str], labels: Sequence[str]) -> Test:
    selectors = [LabelSelector(value, labels) for value in values]
    return lambda flow: any(
        one.matches(flow.end(side), words.identity(flow.end(side), flow.node_name)) for one in selectors
    )


_ENDS: Final[Mapping[str, Callable[[Side, Sequence[Any], Sequence[str]], Test]]] = {
    "ip": _ip, "pod": _pod, "label": _label, "service": _service, "workload": _workload, "cluster_name": _cluster,
    "port": _port, "identity": _identity,
}  # fmt: skip
MAKERS: Final[Mapping[str, Callable[[Sequence[Any], Sequence[str]], Test]]] = {
    "uuid": _uuid, "verdict": _verdict, "event_type": _event_type, "drop_reason_desc": _drop_reason, "reply": _reply,
    "traffic_direction": _direction, "ip_version": _ip_version, "protocol": _protocol, "node_name": _node,
    **{f"{end}_{name}": partial(make, _side(f"{end}_")) for name, make in _ENDS.items()
       for end in ("source", "destination")},
}  # fmt: skip
