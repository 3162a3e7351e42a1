"""The Elastic Common Schema (https://www.elastic.co/docs/reference/ecs), version 8.11.

Fields that the schema does not have are below ``kubeweir``. Labels are lists of ``KEY=VALUE``.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from enrich.wire.flow import End, Flow
from streams.forms.parts import ip_version, label_texts, policy_texts, present, protocol_number, sentence

_VERSION: Final = "8.11.0"


def to_ecs(flow: Flow) -> bytes:
    """Return a record in this form, as JSON."""
    connection, denied = flow.connection, flow.disposition == "deny"
    version, number = ip_version(flow), protocol_number(flow.protocol)
    decided = (flow.policies or flow.isolated_by)[:1]
    return orjson.dumps(
        present(
            {
                "@timestamp": flow.timestamp,
                "ecs": {"version": _VERSION},
                "message": sentence(flow),
                "event": {
                    "kind": "event",
                    "category": ["network"],
                    "type": ["connection", "denied" if denied else "allowed"],
                    "action": flow.disposition,
                    "outcome": "failure" if denied else "success",
                    "id": flow.id,
                    "module": "kubeweir",
                    "dataset": "kubeweir.flows",
                    "reason": flow.reason,
                    "start": flow.timestamp,
                    "end": flow.last_timestamp,
                },
                "source": _endpoint(connection.src_ip, connection.src_port),
                "destination": _endpoint(connection.dest_ip, connection.dest_port),
                "network": present(
                    {
                        "transport": flow.protocol,
                        "iana_number": None if number is None else str(number),
                        "type": f"ipv{version}" if version else None,
                        "direction": flow.direction,
                    }
                ),
                "rule": present({"name": decided[0].path, "category": decided[0].kind}) if decided else {},
                "observer": present(
                    {"type": "firewall", "vendor": "kubeweir", "product": "kubeweir", "hostname": flow.node_name}
                ),
                "orchestrator": _orchestrator(flow),
                "related": present({"ip": sorted({ip for ip in (connection.src_ip, connection.dest_ip) if ip})}),
                "kubeweir": _own(flow),
            }
        )
    )


def _endpoint(ip: str, port: int | None) -> dict[str, Any]:
    return present({"ip": ip, "address": ip, "port": port})


def _orchestrator(flow: Flow) -> dict[str, Any]:
    subject = flow.subject
    resource = present(
        {"type": "pod", "name": subject.pod_name, "id": subject.pod_uid, "label": label_texts(subject)}
        if subject.pod_name
        else {}
    )
    cluster = present({"id": flow.cluster})
    return present({"type": "kubernetes", "cluster": cluster, "namespace": subject.namespace, "resource": resource})


def _own(flow: Flow) -> dict[str, Any]:
    dialled = flow.dialled
    return present(
        {
            "verdict": flow.disposition,
            "count": flow.count,
            "aggregated": flow.aggregated or None,
            "policies": policy_texts(flow.policies),
            "isolated_by": policy_texts(flow.isolated_by),
            "source": _end(flow.src),
            "destination": _end(flow.dest),
            "dialled": present(
                {"ip": dialled.ip, "port": dialled.port, "service": dialled.service.path if dialled.service else None}
            )
            if dialled
            else {},
        }
    )


def _end(end: End) -> dict[str, Any]:
    return present(
        {
            "namespace": end.namespace,
            "pod": end.pod_name,
            "pod_uid": end.pod_uid,
            "workload": end.workload,
            "node": end.node_name,
            "zone": end.zone,
            "service": end.service.path if end.service else None,
            "labels": label_texts(end),
            "ambiguous": end.ambiguous or None,
        }
    )
