"""The fields of records by which alert rules group and count, and which templates name.

Every field is text, and empty where the record has no value. ``SIDE.labels.KEY`` is a field for every label key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from enrich.wire.bounds import Count
from enrich.wire.flow import End, Flow, sides

ReadFlow = Callable[[Flow], str]
ReadEnd = Callable[[End, str], str]
"""Takes an end and its address, which may be empty."""
_SIDES: Final = ("src", "dest", "subject", "peer")


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of ``<prefix>.status``, as far as alerts look at it: see ``streams/schemas/status.schema.json``."""

    type: str
    timestamp: str
    cluster: str = ""
    node: str = ""
    worker: str = ""
    reason: str = ""
    verdicts: Count | None = None
    batches: Count | None = None
    groups: Count | None = None

    def amount_lost(self) -> int | None:
        """Return how much was lost, in the unit of the type; None if the record does not report a loss.

        Raises ValueError if it reports a loss without the amount."""
        match self.type:
            case "gap" | "lost":
                amount = self.verdicts
            case "expired":
                amount = self.batches
            case "alerts_dropped":
                amount = self.groups
            case _:
                return None
        if amount is None:
            raise ValueError(f"a status record of the type {self.type} must say how much was lost")
        return amount


ReadLoss = Callable[[StatusRecord], str]


def policy_names(flow: Flow) -> list[str]:
    """Return the policies that decided or isolate, each ``KIND NAMESPACE/NAME`` or ``KIND NAME``, without repeats."""
    return list(dict.fromkeys(f"{policy.kind} {policy.path}" for policy in (*flow.policies, *flow.isolated_by)))


def _port(flow: Flow) -> str:
    return "" if flow.connection.dest_port is None else str(flow.connection.dest_port)


def _service(flow: Flow) -> str:
    return flow.dialled.service.path if flow.dialled is not None and flow.dialled.service is not None else ""


def _workload(end: End, _ip: str) -> str:
    if end.workload_name:
        return f"{end.workload_kind}/{end.workload_name}"
    return f"Pod/{end.pod_name}" if end.pod_name else ""


def _name(end: End, ip: str) -> str:
    workload = _workload(end, ip)
    if workload:
        return f"{end.namespace}/{workload}"
    return f"Node/{end.node_name}" if end.node_name else ip


_END_FIELDS: Final[Mapping[str, ReadEnd]] = {
    "namespace": lambda end, _: end.namespace,
    "pod": lambda end, _: end.pod_name,
    "workload": _workload,
    "name": _name,
    "node": lambda end, _: end.node_name,
    "zone": lambda end, _: end.zone,
    "ip": lambda _, ip: ip,
}
"""``workload`` is KIND/NAME, or Pod/NAME for a pod without a workload. ``name`` is NAMESPACE/WORKLOAD, Node/NAME or the
address."""


def _of_end(role: str, read_end: ReadEnd) -> ReadFlow:
    def read(flow: Flow) -> str:
        (side,) = sides(role, flow.connection.direction)
        return read_end(flow.end(side), flow.ip(side))

    return read


FLOW_FIELDS: Final[Mapping[str, ReadFlow]] = {
    "cluster": lambda flow: flow.cluster,
    "verdict": lambda flow: flow.disposition,
    "reason": lambda flow: flow.reason,
    "node": lambda flow: flow.node_name,
    "direction": lambda flow: flow.direction,
    "protocol": lambda flow: flow.protocol,
    "port": _port,
    "policy": lambda flow: ", ".join(policy_names(flow)),
    "service": _service,
    **{f"{side}.{name}": _of_end(side, read_end) for side in _SIDES for name, read_end in _END_FIELDS.items()},
}
"""Fields of records of ``<prefix>.flows.denied``, except labels."""
LOSS_FIELDS: Final[Mapping[str, ReadLoss]] = {
    "cluster": lambda status: status.cluster,
    "node": lambda status: status.node,
    "worker": lambda status: status.worker,
    "kind": lambda status: status.type,
    "reason": lambda status: status.reason,
}
"""Fields of losses on ``<prefix>.status``."""

_LABEL: Final = re.compile(r"(src|dest|subject|peer)\.labels\.(.+)")


def flow_field(name: str) -> ReadFlow | None:
    """Return the function that reads a field of a flow, or None if there is no such field."""
    label = _LABEL.fullmatch(name)
    if label is None:
        return FLOW_FIELDS.get(name)
    side, key = label.groups()
    return _of_end(side, lambda end, _: (end.labels or {}).get(key, ""))


def label_name(field: str) -> str:
    """Return a field's name as a Prometheus label name: ``src.namespace`` becomes ``src_namespace``."""
    return re.sub(r"[^A-Za-z0-9_]", "_", field)
