"""Records as OpenTelemetry logs, sent by OTLP over HTTP or gRPC. The only module that imports opentelemetry.

Attributes have the names of the semantic conventions where one exists (https://opentelemetry.io/docs/specs/semconv/);
the others begin with ``kubeweir.``. The body is the record as it is on Kafka.

Requests are encoded by the OpenTelemetry library and sent by :mod:`.http` or :mod:`.grpc_call`, because its exporters
say neither what the receiver answered nor how long it asks to be left alone, and drop a request that they find too
large."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from google.protobuf.message import DecodeError
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from enrich.wire.flow import End, Flow, NamedPolicy
from streams.sinks.http import Headers, Poster
from streams.sinks.sink import PartlyRefusedError, decode, write_in_requests

if TYPE_CHECKING:
    from streams.sinks.grpc_call import GrpcCall

_MAX_RECORDS_PER_REQUEST: Final = 500
"""A record is about 1.5 kB, and receivers accept at least 4 MiB."""
_METHOD: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_HEADERS: Final = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
_SEVERITY: Final = {"deny": SeverityNumber.WARN, "audit": SeverityNumber.WARN}
_SCOPE: Final = InstrumentationScope("kubeweir")
_WORKLOAD_KINDS: Final = frozenset({"deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob"})
"""The kinds that have a semantic convention, such as ``k8s.deployment.name``."""
_NS_PER_S: Final = 1_000_000_000
_MAX_RESOURCES: Final = 10_000
"""Nodes whose resources are kept; whoever writes records may name any number."""


def attributes(flow: Flow) -> dict[str, Any]:
    """Return the attributes of a record's log, without empty ones.

    The subject is ``k8s.*``. The conventions have no names for a second pod: the peer is ``kubeweir.peer.*``."""
    connection, dialled = flow.connection, flow.dialled
    values = {
        "log.record.uid": flow.id,
        "source.address": connection.src_ip,
        "source.port": connection.src_port,
        "destination.address": connection.dest_ip,
        "destination.port": connection.dest_port,
        "network.transport": connection.protocol,
        "network.type": _address_family(connection.src_ip or connection.dest_ip),
        "network.io.direction": "receive" if flow.direction == "ingress" else "transmit",
        **_end_attributes(flow.subject, "k8s"),
        **_end_attributes(flow.peer, "kubeweir.peer"),
        "kubeweir.verdict": flow.disposition,
        "kubeweir.reason": flow.reason,
        "kubeweir.policies": _policy_names(flow.policies),
        "kubeweir.isolated_by": _policy_names(flow.isolated_by),
        "kubeweir.count": flow.count,
        "kubeweir.dialled.address": dialled.ip if dialled else None,
        "kubeweir.dialled.port": dialled.port if dialled else None,
        "kubeweir.dialled.service": dialled.service.path if dialled and dialled.service else None,
    }
    return {name: value for name, value in values.items() if value not in (None, [], "")}


def _end_attributes(end: End, prefix: str) -> dict[str, Any]:
    kind = end.workload_kind.lower()
    workload = {f"{prefix}.{kind}.name": end.workload_name} if kind in _WORKLOAD_KINDS else {}
    return {
        f"{prefix}.namespace.name": end.namespace,
        f"{prefix}.pod.name": end.pod_name,
        f"{prefix}.pod.uid": end.pod_uid,
        **workload,
        **{f"{prefix}.pod.label.{key}": value for key, value in (end.labels or {}).items()},
    }


def _address_family(ip: str) -> str:
    return ("ipv6" if ":" in ip else "ipv4") if ip else ""


def _policy_names(policies: Iterable[NamedPolicy]) -> list[str]:
    return [f"{policy.kind}/{policy.path}" for policy in policies]


class OtlpSink:
    """Sends logs to one receiver."""

    def __init__(
        self,
        endpoint: str,
        headers: Headers,
        timeout_s: float,
        ca: str | None = None,
        certificate: tuple[str, str] | None = None,
        protocol: Literal["http", "grpc"] = "http",
        convert: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """``endpoint`` is the whole URL, such as https://collector:4318/v1/logs, or https://collector:4317 with gRPC.

        ``convert`` makes the body of a log from the record; None: the body is the record. The rest is as for
        :class:`streams.sinks.http.Poster`. Raises ImportError for gRPC without its library.
        """
        self._convert = convert
        self._receiver: Poster | GrpcCall
        self._post: Callable[[bytes], bytes]
        if protocol == "grpc":
            # Its own log lines are not JSON, and repeat what its errors say. It reads this when it is imported.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from streams.sinks.grpc_call import GrpcCall  # noqa: PLC0415 - its library is an extra

            call = GrpcCall(endpoint, _METHOD, headers, timeout_s, ca, certificate)
            self._receiver, self._post = call, call.post_bytes
        else:
            poster = Poster(endpoint, headers, timeout_s, ca, certificate)
            self._receiver = poster
            self._post = lambda request: poster.post_bytes(gzip.compress(request, 5), _HEADERS)
        self._resources: dict[tuple[str, str], Resource] = {}

    def write(self, values: Sequence[bytes]) -> None:
        """Send the records in one or more requests. Raises SinkError, RefusedError, PartlyRefusedError."""
        write_in_requests(values, _MAX_RECORDS_PER_REQUEST, self._send)

    def close(self) -> None:
        """Close the connection."""
        self._receiver.close()

    def _send(self, values: Sequence[bytes]) -> None:
        request = encode_logs([self._log(value) for value in values]).SerializeToString()
        answer = self._post(request)
        # https://opentelemetry.io/docs/specs/otlp/#partial-success-1: rejected records must not be sent again, and the
        # answer does not say which they are.
        rejected, reason = _partial_success(answer)
        if rejected:
            text = f"{self._receiver.shown}: rejected {rejected} of {len(values)}: {self._receiver.redacted(reason)}"
            raise PartlyRefusedError(text, rejected, tried=len(values))

    def _log(self, value: bytes) -> ReadableLogRecord:
        flow = decode(value)
        body = value if self._convert is None else self._convert(value)
        record = LogRecord(
            timestamp=_nanoseconds(flow.timestamp),
            severity_number=_SEVERITY.get(flow.disposition, SeverityNumber.INFO),
            severity_text="WARN" if flow.disposition in _SEVERITY else "INFO",
            body=body.decode(),
            attributes=attributes(flow),
            event_name="kubeweir.verdict",
        )
        return ReadableLogRecord(record, self._resource(flow.cluster, flow.node_name), _SCOPE)

    def _resource(self, cluster: str, node: str) -> Resource:
        found = self._resources.get((cluster, node))
        if found is None:
            if len(self._resources) >= _MAX_RESOURCES:
                self._resources.clear()
            found = self._resources[cluster, node] = Resource(
                {"service.name": "kubeweir", "k8s.cluster.uid": cluster, "k8s.node.name": node}
            )
        return found


def _partial_success(answer: bytes) -> tuple[int, str]:
    """Return how many records an answer rejects, and why. Some receivers answer with text, which rejects none."""
    try:
        found = ExportLogsServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return 0, ""
    return max(0, found.rejected_log_records), found.error_message[:200]


def _nanoseconds(timestamp: str) -> int:
    """Return nanoseconds since the epoch of an RFC 3339 time in UTC with nine decimals."""
    seconds, _, decimals = timestamp.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * _NS_PER_S + int(decimals)
