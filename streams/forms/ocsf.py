"""The Open Cybersecurity Schema Framework (https://schema.ocsf.io), version 1.2.0.

Records are of the class Network Activity (4001) with the profile Security Control. What the schema has no attribute for
is below ``unmapped``."""

from __future__ import annotations

from typing import Any, Final

import orjson

from enrich.wire.flow import End, Flow
from streams.forms.parts import (
    ip_version,
    label_texts,
    milliseconds,
    policy_texts,
    present,
    protocol_number,
    sentence,
)  # fmt: skip

_VERSION: Final = "1.2.0"
_CATEGORY, _CLASS = 4, 4001
_OPEN, _REFUSE = 1, 5
_INFORMATIONAL, _LOW = 1, 2
_SUCCESS, _FAILURE = 1, 2
_INBOUND, _OUTBOUND = 1, 2
_ACTION: Final = {"allow": 1, "deny": 2, "audit": 1}
"""Allowed, Denied. What is audited passes."""
_DISPOSITION: Final = {"allow": 1, "deny": 2, "audit": 17}
"""Allowed, Blocked, Logged."""
_OTHER: Final = 99


def to_ocsf(flow: Flow) -> bytes:
    """Return a record in this form, as JSON."""
    connection, denied = flow.connection, flow.disposition == "deny"
    activity, first = _REFUSE if denied else _OPEN, milliseconds(flow.timestamp)
    aggregate = {"count": flow.count, "start_time": first, "end_time": milliseconds(flow.last_timestamp)}
    decided = (flow.policies or flow.isolated_by)[:1]
    source = _endpoint(flow.src, connection.src_ip, connection.src_port)
    destination = _endpoint(flow.dest, connection.dest_ip, connection.dest_port)
    return orjson.dumps(
        present(
            {
                "activity_id": activity,
                "category_uid": _CATEGORY,
                "class_uid": _CLASS,
                "type_uid": _CLASS * 100 + activity,
                "severity_id": _INFORMATIONAL if flow.disposition == "allow" else _LOW,
                "time": first,
                **(aggregate if flow.count > 1 else {}),
                "message": sentence(flow),
                "status_id": _FAILURE if denied else _SUCCESS,
                "status_detail": flow.reason,
                "action_id": _ACTION.get(flow.disposition, _OTHER),
                "disposition_id": _DISPOSITION.get(flow.disposition, _OTHER),
                "metadata": {
                    "product": {"name": "kubeweir", "vendor_name": "kubeweir"},
                    "version": _VERSION,
                    "uid": flow.id,
                    "profiles": ["security_control"],
                },
                # The class requires both, and a flood has no addresses.
                "src_endpoint": source or {"name": "unknown"},
                "dst_endpoint": destination or {"name": "unknown"},
                "connection_info": present(
                    {
                        "direction_id": _INBOUND if flow.direction == "ingress" else _OUTBOUND,
                        "protocol_name": flow.protocol,
                        "protocol_num": protocol_number(flow.protocol),
                        "protocol_ver_id": ip_version(flow),
                    }
                ),
                "firewall_rule": {"name": decided[0].path, "type": decided[0].kind} if decided else {},
                "unmapped": _unmapped(flow),
            }
        )
    )


def _endpoint(end: End, ip: str, port: int | None) -> dict[str, Any]:
    found = present(
        {
            "ip": ip,
            "name": end.pod or end.node_name,
            "uid": end.pod_uid,
            "svc_name": end.service.path if end.service else None,
        }
    )
    return present({**found, "port": port}) if found else {}


def _unmapped(flow: Flow) -> dict[str, Any]:
    dialled = flow.dialled
    return present(
        {
            "cluster": flow.cluster,
            "node": flow.node_name,
            "policies": policy_texts(flow.policies),
            "isolated_by": policy_texts(flow.isolated_by),
            "src_workload": flow.src.workload,
            "dst_workload": flow.dest.workload,
            "src_labels": label_texts(flow.src),
            "dst_labels": label_texts(flow.dest),
            "dialled": f"{dialled.ip} {dialled.port}" if dialled else None,
        }
    )
