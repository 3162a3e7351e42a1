"""Records as OpenTelemetry logs, sent by OTLP over HTTP; alone imports opentelemetry.

Names are those of the semantic conventions where there is one (https://opentelemetry.io/docs/specs/semconv/); all else
is below ``kubeweir.``. The body is the record as it is on Kafka. The library tries again what OTLP says may be tried
again (429, 502, 503, 504, no connection) for as long as its timeout; what it gives up on then is offered again by the
sink's loop. Any other answer, and a partial success, means that the far end will not have it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
import requests
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from streams.sinks.sink import RefusedError, SinkError

Flow = Mapping[str, Any]

_MOST: Final = 500
"""Records a request: a record is about 1.5 kB, and receivers take 4 MiB at least."""
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
"""What passes; 401 and 403 too are the operator's to mend, not the record's fault."""
_RIGHTS: Final = frozenset({401, 403, 404})
_SEVERITY: Final = {"deny": SeverityNumber.WARN, "audit": SeverityNumber.WARN}
_SCOPE: Final = InstrumentationScope("kubeweir")
_WORKLOADS: Final = frozenset({"deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob"})
_NS: Final = 1_000_000_000
# Its lines repeat what the results tell.
logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
logging.getLogger("opentelemetry").propagate = False


def attributes(flow: Flow) -> dict[str, Any]:
    """The attributes of a record's log. The subject is ``k8s.*``; the other end has no names of its own there."""
    connection = flow["connection"]
    subject, peer = ("dest", "src") if connection["direction"] == "ingress" else ("src", "dest")
    dialled = flow.get("dialled", {})
    named = {
        "log.record.uid": flow["id"],
        "source.address": connection.get("src_ip"),
        "source.port": connection.get("src_port"),
        "destination.address": connection.get("dest_ip"),
        "destination.port": connection.get("dest_port"),
        "network.transport": connection.get("protocol"),
        "network.type": _family(connection.get("src_ip") or connection.get("dest_ip")),
        "network.io.direction": "receive" if connection["direction"] == "ingress" else "transmit",
        **_end(flow[subject], "k8s"),
        **_end(flow[peer], "kubeweir.peer"),
        "kubeweir.verdict": flow["disposition"],
        "kubeweir.reason": flow["reason"],
        "kubeweir.policies": _policies(flow["policies"]),
        "kubeweir.isolated_by": _policies(flow["isolated_by"]),
        "kubeweir.count": flow["count"],
        "kubeweir.dialled.address": dialled.get("ip"),
        "kubeweir.dialled.port": dialled.get("port"),
        "kubeweir.dialled.service": _name(dialled.get("service")),
    }
    return {name: value for name, value in named.items() if value not in (None, [], "")}


def _end(end: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    kind = str(end.get("workload_kind", "")).lower()
    workload = {f"{prefix}.{kind}.name": end.get("workload_name")} if kind in _WORKLOADS else {}
    return {
        f"{prefix}.namespace.name": end.get("namespace"),
        f"{prefix}.pod.name": end.get("pod_name"),
        f"{prefix}.pod.uid": end.get("pod_uid"),
        **workload,
        **{f"{prefix}.pod.label.{key}": value for key, value in end.get("labels", {}).items()},
    }


def _family(ip: str | None) -> str | None:
    return None if ip is None else "ipv6" if ":" in ip else "ipv4"


def _policies(refs: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{ref['kind']}/{_name(ref)}" for ref in refs]


def _name(ref: Mapping[str, str] | None) -> str | None:
    if ref is None:
        return None
    return f"{ref['namespace']}/{ref['name']}" if ref.get("namespace") else ref["name"]


class OtlpSink:
    """Logs to one receiver."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], timeout_s: float) -> None:
        """``endpoint``: the whole URL, as https://collector:4318/v1/logs."""
        self._endpoint = endpoint
        self._status: int | None = None
        self._answer = b""
        session = requests.Session()
        session.hooks["response"].append(self._look)
        self._exporter = OTLPLogExporter(
            endpoint=endpoint, headers=dict(headers), timeout=timeout_s, compression=Compression.Gzip, session=session
        )
        self._resources: dict[tuple[str, str], Resource] = {}

    def write(self, values: Sequence[bytes]) -> None:
        """Some requests."""
        for first in range(0, len(values), _MOST):
            self._send([self._log(value) for value in values[first : first + _MOST]])

    def close(self) -> None:
        """Disconnect."""
        self._exporter.shutdown()

    def _send(self, logs: list[ReadableLogRecord]) -> None:
        self._status, self._answer = None, b""
        if self._exporter.export(logs) is not LogRecordExportResult.SUCCESS:
            told = f"{self._endpoint}: {self._status or 'no answer'} {self._answer[:200].decode(errors='replace')}"
            if self._status is None or self._status in _AGAIN | _RIGHTS:
                raise SinkError(told)
            raise RefusedError(told)
        # https://opentelemetry.io/docs/specs/otlp/#partial-success-1: what is rejected must not be sent again, and
        # which it is the answer does not say.
        partial = ExportLogsServiceResponse.FromString(self._answer).partial_success
        if partial.rejected_log_records:
            raise RefusedError(f"{self._endpoint}: rejected {partial.rejected_log_records}: {partial.error_message}")

    def _look(self, response: requests.Response, **_: Any) -> None:
        self._status, self._answer = response.status_code, response.content

    def _log(self, value: bytes) -> ReadableLogRecord:
        flow = orjson.loads(value)
        record = LogRecord(
            timestamp=_nanoseconds(flow["timestamp"]),
            severity_number=_SEVERITY.get(flow["disposition"], SeverityNumber.INFO),
            severity_text="WARN" if flow["disposition"] in _SEVERITY else "INFO",
            body=value.decode(),
            attributes=attributes(flow),
            event_name="kubeweir.verdict",
        )
        return ReadableLogRecord(record, self._resource(flow["cluster"], flow["node_name"]), _SCOPE)

    def _resource(self, cluster: str, node: str) -> Resource:
        found = self._resources.get((cluster, node))
        if found is None:
            found = self._resources[cluster, node] = Resource(
                {"service.name": "kubeweir", "k8s.cluster.uid": cluster, "k8s.node.name": node}
            )
        return found


def _nanoseconds(stamp: str) -> int:
    """Of an RFC 3339 time with nine digits."""
    seconds, _, rest = stamp.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * _NS + int(rest)
