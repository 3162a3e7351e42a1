"""A record in the form of Hubble's API, and the fields of it that a client asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from enrich.wire.flow import End, Flow, NamedPolicy
from streams.hubble import words
from streams.hubble.messages import fields_of, message

_FLOW, _RESPONSE, _ENDPOINT = message("Flow"), message("GetFlowsResponse"), message("Endpoint")
_WITH_PORTS: Final = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}
_ICMP: Final = {"icmp": "ICMPv4", "icmpv6": "ICMPv6"}
_OTHERS: Final = {"2": "IGMP", "112": "VRRP"}
_MAX_PATHS: Final = 200
_MAX_COUNT: Final = (1 << 32) - 1
_TIME: Final = re.compile(r"([0-9-]{10}T[0-9:]{8})(?:\.([0-9]{1,9}))?Z")
Mask = dict[str, "Mask"]
"""The fields that are asked for, each with those inside it; empty: all of it."""


class MaskError(ValueError):
    """A field mask names what no flow has."""


def parse_mask(paths: Sequence[str]) -> Mask:
    """Return the fields that paths such as ``source.pod_name`` name. Raises MaskError."""
    if len(paths) > _MAX_PATHS:
        raise MaskError(f"field_mask: {len(paths)} paths; at most {_MAX_PATHS} are taken")
    found: Mask = {}
    for path in paths:
        _add_path(found, path)
    return found


def _add_path(mask: Mask, path: str) -> None:
    at, kind = mask, "Flow"
    names = path.split(".")
    for place, name in enumerate(names):
        table = fields_of(kind) if kind else {}
        # What no record has is a message without fields here, whatever is in it elsewhere.
        if name not in table and (table or not kind or not name):
            raise MaskError(f"field_mask: no flow has the field {path[:100]!r}")
        text = table[name][1] if name in table else "Unused"
        kind = text.removeprefix("repeated ") if text.removeprefix("repeated ")[:1].isupper() else ""
        if name in at and not at[name]:
            return  # all of it is asked for already
        if place == len(names) - 1:
            at[name] = {}
        else:
            at = at.setdefault(name, {})


def response(flow: Flow, version: str, mask: Mask) -> Any:
    """Return the answer that holds a flow; ``mask`` empty: all of it."""
    made = flow_message(flow, version)
    if mask:
        _keep(made, mask)
    found = _RESPONSE(node_name=flow.node_name, flow=made)
    set_time(found.time, flow.timestamp)
    return found


def flow_message(flow: Flow, version: str) -> Any:
    """Return a record as Hubble has it."""
    made = _FLOW(
        uuid=flow.id,
        verdict=words.VERDICTS.get(flow.disposition, words.UNKNOWN),
        Type=words.L3_L4,
        node_name=flow.node_name,
        traffic_direction=words.DIRECTIONS[flow.direction],
        Summary=summary(flow),
    )
    set_time(made.time, flow.timestamp)
    made.emitter.name, made.emitter.version = "kubeweir", version
    made.event_type.type = words.POLICY_VERDICT
    # A record is about who opens a connection.
    made.is_reply.value = False
    made.drop_reason = made.drop_reason_desc = words.drop_reason(flow)
    made.policy_match_type = words.ALLOWED_WITHOUT_POLICY if flow.reason == "no_policy" else words.MATCHED_BY_NOTHING
    made.source.CopyFrom(_endpoint(flow.src, flow))
    made.destination.CopyFrom(_endpoint(flow.dest, flow))
    _set_addresses(made, flow)
    _set_services(made, flow)
    decided = "allowed" if flow.disposition == "allow" else "denied"
    policies = flow.policies or (() if flow.disposition == "allow" else flow.isolated_by)
    getattr(made, f"{flow.direction}_{decided}_by").extend(_policies(policies))
    if flow.count > 1:
        setattr(made.aggregate, f"{flow.direction}_flow_count", min(flow.count, _MAX_COUNT))
    return made


def summary(flow: Flow) -> str:
    """Return what people read in the last column: protocol, reason, and how many packets a denial counts."""
    name = _WITH_PORTS.get(flow.protocol) or _ICMP.get(flow.protocol) or _OTHERS.get(flow.protocol)
    parts = [name or (f"protocol {flow.protocol}" if flow.protocol else "any protocol")]
    if flow.icmp is not None:
        parts.append(f"type {flow.icmp.type} code {flow.icmp.code}")
    counted = f" ({flow.count} packets)" if flow.count > 1 else ""
    return f"{' '.join(parts)}; {flow.reason.replace('_', ' ')}{counted}"


def set_time(timestamp: Any, text: str) -> None:
    """Set a Timestamp from a record's time. Raises ValueError for what is no time."""
    timestamp.seconds, timestamp.nanos = read_time(text)


def read_time(text: str) -> tuple[int, int]:
    """Return seconds since 1970 and nanoseconds of a record's time. Raises ValueError for what is no time."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("a record's time is no time of RFC 3339 in UTC")
    return int(datetime.fromisoformat(f"{found[1]}+00:00").timestamp()), int((found[2] or "").ljust(9, "0"))


def _endpoint(end: End, flow: Flow) -> Any:
    made = _ENDPOINT(namespace=end.namespace, pod_name=end.pod_name, identity=words.identity(end, flow.node_name))
    if end.pod_name:
        made.cluster_name = flow.cluster
    made.labels.extend(labels_of(end, made.identity))
    if end.workload_name:
        made.workloads.add(name=end.workload_name, kind=end.workload_kind)
    return made


def labels_of(end: End, identity: int) -> list[str]:
    """Return the labels of an end, each with where it comes from."""
    if identity:
        return [f"reserved:{words.IDENTITIES[identity]}"]
    return [f"k8s:{key}={value}" for key, value in sorted((end.labels or {}).items())]


def _set_addresses(made: Any, flow: Flow) -> None:
    connection = flow.connection
    if connection.src_ip or connection.dest_ip:
        made.IP.source, made.IP.destination = connection.src_ip, connection.dest_ip
        made.IP.ipVersion = words.ip_version(connection.src_ip or connection.dest_ip)
    if flow.protocol in _WITH_PORTS:
        ports = getattr(made.l4, _WITH_PORTS[flow.protocol])
        ports.SetInParent()
        ports.source_port, ports.destination_port = connection.src_port or 0, connection.dest_port or 0
    elif flow.protocol in _ICMP:
        kind = getattr(made.l4, _ICMP[flow.protocol])
        kind.SetInParent()
        if flow.icmp is not None:
            kind.type, kind.code = flow.icmp.type, flow.icmp.code
    elif flow.protocol in _OTHERS:
        getattr(made.l4, _OTHERS[flow.protocol]).SetInParent()


def _set_services(made: Any, flow: Flow) -> None:
    dialled = flow.dialled.service if flow.dialled else None
    for service, target in ((flow.src.service, made.source_service), (dialled or flow.dest.service,
                                                                     made.destination_service)):  # fmt: skip
        if service is not None:
            target.name, target.namespace = service.name, service.namespace


def _policies(policies: Iterable[NamedPolicy]) -> list[Any]:
    make = message("Policy")
    return [make(name=one.name, namespace=one.namespace, kind=one.kind) for one in policies]


def _keep(found: Any, mask: Mask) -> None:
    """Clear the fields of a message that a mask does not have."""
    for field, value in found.ListFields():
        if field.name not in mask:
            found.ClearField(field.name)
        elif inside := mask[field.name]:
            for one in (value,) if hasattr(value, "ListFields") else value:
                _keep(one, inside)
