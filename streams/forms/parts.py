"""What several forms say in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from enrich.wire.flow import End, Flow, NamedPolicy

_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_MAX_PROTOCOL: Final = 255


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are there: without None, empty texts, empty lists and empty objects."""
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


def protocol_number(protocol: str) -> int | None:
    """Return the IANA number of a protocol, which a record names or gives as text; None if it is not known."""
    if len(protocol) <= len(str(_MAX_PROTOCOL)) and protocol.isascii() and protocol.isdigit():
        number = int(protocol)
        return number if number <= _MAX_PROTOCOL else None
    return _PROTOCOLS.get(protocol)


def ip_version(flow: Flow) -> int | None:
    """Return 4 or 6; None if no address is known."""
    address = flow.connection.src_ip or flow.connection.dest_ip
    return (6 if ":" in address else 4) if address else None


def milliseconds(timestamp: str) -> int:
    """Return milliseconds since the epoch of an RFC 3339 time in UTC with nine decimals."""
    seconds, _, decimals = timestamp.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 1000 + int(decimals[:3] or 0)


def policy_texts(policies: Iterable[NamedPolicy]) -> list[str]:
    """Return each policy as ``KIND NAMESPACE/NAME`` or ``KIND NAME``."""
    return [f"{policy.kind} {policy.path}" for policy in policies]


def label_texts(end: End) -> list[str]:
    """Return the labels as ``KEY=VALUE``. As keys of an object, ``app`` and ``app.kubernetes.io/name`` exclude each
    other where dots make objects, as in Elasticsearch."""
    return [f"{key}={value}" for key, value in (end.labels or {}).items()]


def sentence(flow: Flow) -> str:
    """Return the record in one line for people."""
    port = "" if flow.connection.dest_port is None else f":{flow.connection.dest_port}"
    ends = f"{flow.text('src', 'many')} -> {flow.text('dest', 'many')}{port}"
    return " ".join(filter(None, (flow.disposition, flow.direction, ends, flow.protocol, f"({flow.reason})")))
