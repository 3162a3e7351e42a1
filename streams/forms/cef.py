r"""ArcSight's Common Event Format, version 0: a line of a header with bars, then keys and values.

In the header ``\`` and ``|`` are escaped, in values ``\`` and ``=``, and a line break in a value is ``\n``."""

from __future__ import annotations

import re
from typing import Any, Final

from enrich.wire.flow import Flow
from streams.forms.parts import ip_version, milliseconds, policy_texts, present

_SEVERITY: Final = {"allow": 1, "audit": 4, "deny": 5}
_NAMES: Final = {"allow": "connection allowed", "deny": "connection denied", "audit": "connection would be denied"}
_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def to_cef(flow: Flow) -> bytes:
    """Return a record in this form, as a line without its end."""
    name, severity = _NAMES.get(flow.disposition, "connection"), _SEVERITY.get(flow.disposition, 3)
    header = "|".join(_header(part) for part in ("kubeweir", "kubeweir", "1", flow.reason, name, str(severity)))
    values = " ".join(f"{key}={_value(str(value))}" for key, value in present(_extension(flow)).items())
    return f"CEF:0|{header}|{values}".encode(errors="replace")


def _extension(flow: Flow) -> dict[str, Any]:
    connection, first = flow.connection, milliseconds(flow.timestamp)
    customs = {
        1: ("policy", ", ".join(policy_texts(flow.policies or flow.isolated_by))),
        2: ("source", flow.src.pod or flow.src.node_name),
        3: ("destination", flow.dest.pod or flow.dest.node_name),
        4: ("cluster", flow.cluster),
        5: ("sourceWorkload", flow.src.workload),
        6: ("destinationWorkload", flow.dest.workload),
    }
    return {
        "rt": first,
        "start": first,
        "end": milliseconds(flow.last_timestamp),
        "externalId": flow.id,
        "act": flow.disposition,
        "reason": flow.reason,
        "outcome": "failure" if flow.disposition == "deny" else "success",
        "deviceDirection": 0 if flow.direction == "ingress" else 1,
        "proto": flow.protocol.upper(),
        **_addresses(flow),
        "spt": connection.src_port,
        "dpt": connection.dest_port,
        "cnt": flow.count,
        "dvchost": flow.node_name,
        **{
            key: text
            for number, (label, value) in customs.items()
            if value
            for key, text in ((f"cs{number}Label", label), (f"cs{number}", value))
        },
    }


def _addresses(flow: Flow) -> dict[str, str]:
    """Return the addresses: ``src`` and ``dst`` are for IPv4 only."""
    source, destination = flow.connection.src_ip, flow.connection.dest_ip
    if ip_version(flow) != 6:
        return {"src": source, "dst": destination}
    return {
        **({"c6a2Label": "Source IPv6 Address", "c6a2": source} if source else {}),
        **({"c6a3Label": "Destination IPv6 Address", "c6a3": destination} if destination else {}),
    }


def _header(text: str) -> str:
    return _BREAKS.sub(" ", text).replace("\\", "\\\\").replace("|", "\\|")


def _value(text: str) -> str:
    return _BREAKS.sub(" ", text).replace("\\", "\\\\").replace("=", "\\=")
