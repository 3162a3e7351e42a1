"""The fields of a record by which alert rules group, count and speak: name to text, empty where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from enrich.wire.flow import sides

Flow = Mapping[str, Any]

Read = Callable[[Any], str]
"""A record, as JSON, to a field's text."""
_SIDES: Final = ("src", "dest", "subject", "peer")


def _of_connection(name: str) -> Read:
    return lambda flow: str(flow["connection"].get(name, ""))


def _of_record(name: str) -> Read:
    return lambda flow: str(flow.get(name, ""))


def _policies(flow: Flow) -> str:
    return ", ".join(policy_refs(flow))


def policy_refs(flow: Flow) -> list[str]:
    """The policies that decided or that isolate, each ``KIND NAMESPACE/NAME``, or ``KIND NAME``."""
    refs = (*flow["policies"], *flow["isolated_by"])
    named = (f"{ref['kind']} {ref['namespace']}/{ref['name']}" if ref.get("namespace") else _bare(ref) for ref in refs)
    return list(dict.fromkeys(named))


def _bare(ref: Mapping[str, str]) -> str:
    return f"{ref['kind']} {ref['name']}"


def _service(flow: Flow) -> str:
    service = flow.get("dialled", {}).get("service")
    return f"{service['namespace']}/{service['name']}" if service else ""


def _workload(end: Mapping[str, Any], _ip: str) -> str:
    if end.get("workload_name"):
        return f"{end['workload_kind']}/{end['workload_name']}"
    return f"Pod/{end['pod_name']}" if end.get("pod_name") else ""


def _name(end: Mapping[str, Any], ip: str) -> str:
    workload = _workload(end, ip)
    if workload:
        return f"{end.get('namespace', '')}/{workload}"
    return f"Node/{end['node_name']}" if end.get("node_name") else ip


_ENDS: Final[dict[str, Callable[[Mapping[str, Any], str], str]]] = {
    "namespace": lambda end, _: str(end.get("namespace", "")),
    "pod": lambda end, _: str(end.get("pod_name", "")),
    "workload": _workload,
    "name": _name,
    "node": lambda end, _: str(end.get("node_name", "")),
    "zone": lambda end, _: str(end.get("zone", "")),
    "ip": lambda _, ip: ip,
}
"""``workload``: KIND/NAME, Pod/NAME for a pod of its own. ``name``: NAMESPACE/WORKLOAD, Node/NAME, or the address."""


def _of_end(side: str, about: Callable[[Mapping[str, Any], str], str]) -> Read:
    def read(flow: Flow) -> str:
        connection = flow["connection"]
        which = side if side in ("src", "dest") else sides(side, connection["direction"])[0]
        return about(flow[which], connection.get(f"{which}_ip", ""))

    return read


FLOW_FIELDS: Final[dict[str, Read]] = {
    "cluster": _of_record("cluster"),
    "verdict": _of_record("disposition"),
    "reason": _of_record("reason"),
    "node": _of_record("node_name"),
    "direction": _of_connection("direction"),
    "protocol": _of_connection("protocol"),
    "port": _of_connection("dest_port"),
    "policy": _policies,
    "service": _service,
    **{f"{side}.{name}": _of_end(side, about) for side in _SIDES for name, about in _ENDS.items()},
}
"""Of records on ``<prefix>.flows.denied``."""
LOSS_FIELDS: Final[dict[str, Read]] = {
    "cluster": _of_record("cluster"),
    "node": _of_record("node"),
    "worker": _of_record("worker"),
    "kind": _of_record("type"),
    "reason": _of_record("reason"),
}
"""Of losses on ``<prefix>.status``."""

_LABEL: Final = re.compile(r"(src|dest|subject|peer)\.labels\.(.+)")


def flow_field(name: str) -> Read | None:
    """How to read a field of a flow; None: there is no such field. ``SIDE.labels.KEY`` is one too."""
    found = _LABEL.fullmatch(name)
    if found is None:
        return FLOW_FIELDS.get(name)
    side, key = found.groups()
    return _of_end(side, lambda end, _: str(end.get("labels", {}).get(key, "")))


def label_name(field: str) -> str:
    """A field as the name of a Prometheus label."""
    return re.sub(r"[^A-Za-z0-9_]", "_", field)
