"""The messages of Hubble's API v1, as far as this server reads or writes them.

The tables below are written by hand. A field's number and type are facts of the published wire format, which never
change within v1; everything else about it is left out. From the tables, the protobuf library makes classes when this
module is imported: so there is no generated code, and no compiler is needed to set the project up.

- The classes are in a descriptor pool of their own, because a process may hold only one message of a name in the
  common one, and the tables have only what we use.
- On the wire, an enum is a varint like ``int32``, a ``oneof`` is its fields, and a well-known type is a message like
  others. So the tables need none of them.
- All filters and all fields of a flow have their names here, even those that this server cannot answer: a request is
  refused by the name of the filter, and a mask may name a field that no record has. A field that is not in a table is
  found among the unknown ones (:func:`unknown_numbers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields

_PACKAGE: Final = "kubeweir.hubble"
_SCALARS: Final = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
}
_MANY: Final = "repeated "

_PORTS: Final = {"source_port": (1, "uint32"), "destination_port": (2, "uint32")}
_ICMP: Final = {"type": (1, "uint32"), "code": (2, "uint32")}

_FLOW: Final = {
    "time": (1, "Timestamp"), "verdict": (2, "int32"), "drop_reason": (3, "uint32"), "ethernet": (4, "Unused"),
    "IP": (5, "IP"), "l4": (6, "Layer4"), "source": (8, "Endpoint"), "destination": (9, "Endpoint"),
    "Type": (10, "int32"), "node_name": (11, "string"), "source_names": (13, "repeated string"),
    "destination_names": (14, "repeated string"), "l7": (15, "Unused"), "reply": (16, "bool"),
    "event_type": (19, "EventType"), "source_service": (20, "Service"), "destination_service": (21, "Service"),
    "traffic_direction": (22, "int32"), "policy_match_type": (23, "uint32"), "trace_observation_point": (24, "int32"),
    "drop_reason_desc": (25, "int32"), "is_reply": (26, "Bool"), "debug_capture_point": (27, "int32"),
    "interface": (28, "Unused"), "proxy_port": (29, "uint32"), "trace_context": (30, "Unused"),
    "sock_xlate_point": (31, "int32"), "socket_cookie": (32, "uint64"), "cgroup_id": (33, "uint64"),
    "uuid": (34, "string"), "auth_type": (35, "int32"), "trace_reason": (36, "int32"),
    "node_labels": (37, "repeated string"), "file": (38, "Unused"), "tunnel": (39, "Unused"),
    "ip_trace_id": (40, "Unused"), "emitter": (41, "Emitter"), "egress_allowed_by": (21001, "repeated Policy"),
    "ingress_allowed_by": (21002, "repeated Policy"), "egress_denied_by": (21004, "repeated Policy"),
    "ingress_denied_by": (21005, "repeated Policy"), "policy_log": (21006, "repeated string"),
    "aggregate": (21007, "Aggregate"), "Summary": (100000, "string"), "extensions": (150000, "Unused"),
}  # fmt: skip
_FILTER: Final = {
    "source_ip": (1, "repeated string"), "source_pod": (2, "repeated string"),
    "destination_ip": (3, "repeated string"), "destination_pod": (4, "repeated string"),
    "verdict": (5, "repeated int32"), "event_type": (6, "repeated EventTypeFilter"),
    "source_fqdn": (7, "repeated string"), "destination_fqdn": (8, "repeated string"),
    "http_status_code": (9, "repeated string"), "source_label": (10, "repeated string"),
    "destination_label": (11, "repeated string"), "protocol": (12, "repeated string"),
    "source_port": (13, "repeated string"), "destination_port": (14, "repeated string"),
    "reply": (15, "repeated bool"), "source_service": (16, "repeated string"),
    "destination_service": (17, "repeated string"), "dns_query": (18, "repeated string"),
    "source_identity": (19, "repeated uint32"), "destination_identity": (20, "repeated uint32"),
    "http_method": (21, "repeated string"), "http_path": (22, "repeated string"),
    "tcp_flags": (23, "repeated Unused"), "node_name": (24, "repeated string"), "ip_version": (25, "repeated int32"),
    "source_workload": (26, "repeated Workload"), "destination_workload": (27, "repeated Workload"),
    "trace_id": (28, "repeated string"), "uuid": (29, "repeated string"),
    "traffic_direction": (30, "repeated int32"), "http_url": (31, "repeated string"),
    "http_header": (32, "repeated Unused"), "drop_reason_desc": (33, "repeated int32"),
    "source_ip_xlated": (34, "repeated string"), "interface": (35, "repeated Unused"),
    "node_labels": (36, "repeated string"), "source_cluster_name": (37, "repeated string"),
    "destination_cluster_name": (38, "repeated string"), "ip_trace_id": (39, "repeated uint64"),
    "encrypted": (40, "repeated bool"), "experimental": (999, "ExperimentalFilter"),
}  # fmt: skip
_OBSERVER: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    "GetFlowsRequest": {
        "number": (1, "uint64"), "follow": (3, "bool"), "blacklist": (5, "repeated FlowFilter"),
        "whitelist": (6, "repeated FlowFilter"), "since": (7, "Timestamp"), "until": (8, "Timestamp"),
        "first": (9, "bool"), "field_mask": (10, "FieldMask"), "experimental": (999, "Unused"),
        "extensions": (150000, "Unused"),
    },
    "GetFlowsResponse": {
        "flow": (1, "Flow"), "lost_events": (3, "LostEvent"), "node_name": (1000, "string"),
        "time": (1001, "Timestamp"),
    },
    "LostEvent": {
        "source": (1, "int32"), "num_events_lost": (2, "uint64"), "first": (4, "Timestamp"), "last": (5, "Timestamp"),
    },
    "GetNodesRequest": {},
    "GetNodesResponse": {"nodes": (1, "repeated Node")},
    "Node": {
        "name": (1, "string"), "version": (2, "string"), "address": (3, "string"), "state": (4, "int32"),
        "tls": (5, "TLS"), "uptime_ns": (6, "uint64"), "num_flows": (7, "uint64"), "max_flows": (8, "uint64"),
        "seen_flows": (9, "uint64"),
    },
    "TLS": {"enabled": (1, "bool"), "server_name": (2, "string")},
    "GetNamespacesRequest": {},
    "GetNamespacesResponse": {"namespaces": (1, "repeated Namespace")},
    "Namespace": {"cluster": (1, "string"), "namespace": (2, "string")},
    "ServerStatusRequest": {},
    "ServerStatusResponse": {
        "num_flows": (1, "uint64"), "max_flows": (2, "uint64"), "seen_flows": (3, "uint64"),
        "uptime_ns": (4, "uint64"), "num_connected_nodes": (5, "UInt32"), "num_unavailable_nodes": (6, "UInt32"),
        "unavailable_nodes": (7, "repeated string"), "version": (8, "string"), "flows_rate": (9, "double"),
    },
}  # fmt: skip
_PARTS: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    "Unused": {},
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "FieldMask": {"paths": (1, "repeated string")},
    "Bool": {"value": (1, "bool")},
    "UInt32": {"value": (1, "uint32")},
    "Flow": _FLOW,
    "FlowFilter": _FILTER,
    "ExperimentalFilter": {"cel_expression": (1, "repeated string")},
    "EventTypeFilter": {"type": (1, "int32"), "match_sub_type": (2, "bool"), "sub_type": (3, "int32")},
    "EventType": {"type": (1, "int32"), "sub_type": (2, "int32")},
    "Emitter": {"name": (1, "string"), "version": (2, "string")},
    "Endpoint": {
        "ID": (1, "uint32"), "identity": (2, "uint32"), "namespace": (3, "string"), "labels": (4, "repeated string"),
        "pod_name": (5, "string"), "workloads": (6, "repeated Workload"), "cluster_name": (7, "string"),
    },
    "Workload": {"name": (1, "string"), "kind": (2, "string")},
    "IP": {
        "source": (1, "string"), "destination": (2, "string"), "ipVersion": (3, "int32"), "encrypted": (4, "bool"),
        "source_xlated": (5, "string"),
    },
    "Layer4": {
        "TCP": (1, "Ports"), "UDP": (2, "Ports"), "ICMPv4": (3, "Icmp"), "ICMPv6": (4, "Icmp"), "SCTP": (5, "Ports"),
        "VRRP": (6, "Unused"), "IGMP": (7, "Unused"),
    },
    "Ports": _PORTS,
    "Icmp": _ICMP,
    "Service": {"name": (1, "string"), "namespace": (2, "string")},
    "Policy": {
        "name": (1, "string"), "namespace": (2, "string"), "labels": (3, "repeated string"),
        "revision": (4, "uint64"), "kind": (5, "string"),
    },
    "Aggregate": {"ingress_flow_count": (1, "uint32"), "egress_flow_count": (2, "uint32")},
    # grpc.health.v1, which `hubble status` asks first.
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},
}  # fmt: skip


def _made() -> dict[str, Any]:
    """Return the class of each message."""
    file = descriptor_pb2.FileDescriptorProto(name="kubeweir/hubble.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in {**_OBSERVER, **_PARTS}.items():
        message = file.message_type.add(name=name)
        for field, (number, text) in fields.items():
            kind = text.removeprefix(_MANY)
            made = message.field.add(name=field, number=number)
            made.label = made.LABEL_REPEATED if kind != text else made.LABEL_OPTIONAL
            if kind in _SCALARS:
                made.type = _SCALARS[kind]
            else:
                made.type, made.type_name = made.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in (*_OBSERVER, *_PARTS)
    }


_CLASSES: Final = _made()


def message(name: str) -> Any:
    """Return the class of a message, by its name in Hubble's API."""
    return _CLASSES[name]


def unknown_numbers(found: Any) -> list[int]:
    """Return the numbers of the fields of a message that its table does not have."""
    return sorted({field.field_number for field in unknown_fields.UnknownFieldSet(found)})


def fields_of(name: str) -> Mapping[str, tuple[int, str]]:
    """Return the table of a message: number and type of each field."""
    return {**_OBSERVER, **_PARTS}[name]
