"""Reads pods from the API's JSON, fast: a cluster may have a hundred thousand of them, of 3 kB each.

The bytes are decoded straight into the few fields that are kept, and the others are skipped without being built. The
pods of a Deployment have equal labels, owners and ports, which are therefore shared. Nothing is checked that the API
server has checked. A pod that does not fit raises an error here; :mod:`enrich.parse.objects` then says what is wrong
with it.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from enrich.model import NamedPort, Owner, Pod, Protocol

_MAX_SHARED: Final = 100_000
"""Distinct label sets, owners or port lists that are shared; at more, sharing starts over."""
_READY: Final = "PodReadyToStartContainers"
_PROTOCOLS: Final = {"": Protocol.TCP, **{protocol.name: protocol for protocol in Protocol}}
_NONE: Final = msgspec.Raw()


class _Annotations(msgspec.Struct, gc=False):
    mirror: str = msgspec.field(default="", name="kubernetes.io/config.mirror")


class _Meta(msgspec.Struct, gc=False, rename="camel"):
    name: str
    uid: str
    namespace: str = "default"
    resource_version: str = ""
    labels: msgspec.Raw = _NONE
    annotations: _Annotations | None = None
    owner_references: msgspec.Raw = _NONE


class _Port(msgspec.Struct, gc=False, rename="camel"):
    container_port: int
    name: str = ""
    protocol: str = ""


class _Container(msgspec.Struct, gc=False, rename="camel"):
    ports: list[_Port] | None = None
    restart_policy: str = ""


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    node_name: str = ""
    host_network: bool = False


class _Address(msgspec.Struct, gc=False):
    ip: str


class _Condition(msgspec.Struct, gc=False, rename="camel"):
    type: str
    status: str
    last_transition_time: str | None = None


class _Status(msgspec.Struct, gc=False):
    phase: str = ""
    ip: str = msgspec.field(default="", name="podIP")
    ips: list[_Address] | None = msgspec.field(default=None, name="podIPs")
    start: str | None = msgspec.field(default=None, name="startTime")
    conditions: list[_Condition] | None = None


class PodJson(msgspec.Struct, gc=False):
    """The fields of a pod that are kept, under the API's names."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _Owner(msgspec.Struct, gc=False):
    kind: str
    name: str
    uid: str = ""
    controller: bool = False


_labels_of = msgspec.json.Decoder(dict[str, str] | None).decode
_owners_of = msgspec.json.Decoder(list[_Owner] | None).decode


class _Shared(dict[Any, Any]):
    """Values by the bytes that they are read from, each made once. The number of values is bounded."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> Any:
        if len(self) >= _MAX_SHARED:
            self.clear()
        made = self[key] = self._make(key)
        return made


class PodReader:
    """Makes pods that share equal labels, owners and ports. Not thread safe."""

    def __init__(self) -> None:
        self._labels, self._owners = _Shared(_read_labels), _Shared(_controller)
        self._ports, self._times = _Shared(_named_ports), _Shared(_nanoseconds)

    def read(self, item: PodJson) -> Pod:
        """Make the pod. Raises ValueError for a value that the API server would not accept."""
        meta, spec, status = item.metadata, item.spec, item.status
        addresses = [_canonical(entry.ip) for entry in status.ips] if status.ips else []
        if not addresses and status.ip:
            addresses = [_canonical(status.ip)]
        acknowledged = self._times[status.start]
        return Pod(
            sys.intern(meta.namespace),
            meta.name,
            meta.uid,
            self._labels[bytes(meta.labels)],
            tuple(addresses),
            sys.intern(spec.node_name),
            spec.host_network,
            status.phase in ("Succeeded", "Failed"),
            self._ports[_ports(spec)],
            self._owners[bytes(meta.owner_references)],
            self._times[_ready(status.conditions)] or acknowledged,
            acknowledged,
            meta.annotations.mirror if meta.annotations else "",
        )


def _ports(spec: _Spec) -> tuple[tuple[str, int, str], ...]:
    """Return name, number and protocol of named ports, also of sidecars: init containers with restartPolicy Always."""
    containers = spec.containers or []
    if spec.init_containers:
        containers = containers + [one for one in spec.init_containers if one.restart_policy == "Always"]
    return tuple(
        [
            (port.name, port.container_port, port.protocol)
            for container in containers
            if container.ports
            for port in container.ports
            if port.name
        ]
    )


def _named_ports(found: tuple[tuple[str, int, str], ...]) -> tuple[NamedPort, ...]:
    return tuple(NamedPort(name, port, _PROTOCOLS[protocol]) for name, port, protocol in found)


def _read_labels(raw: bytes) -> dict[str, str]:
    labels = (_labels_of(raw) if raw else None) or {}
    return {sys.intern(key): sys.intern(value) for key, value in labels.items()}


def _controller(raw: bytes) -> Owner | None:
    for reference in (_owners_of(raw) if raw else None) or ():
        if reference.controller:
            return Owner(sys.intern(reference.kind), reference.name, reference.uid)
    return None


def _canonical(text: str) -> str:
    if ":" in text:
        return str(ipaddress.IPv6Address(text))
    socket.inet_pton(socket.AF_INET, text)  # accepts the canonical form only
    return text


def _ready(conditions: list[_Condition] | None) -> str | None:
    for condition in conditions or ():
        if condition.type == _READY and condition.status == "True":
            return condition.last_transition_time
    return None


def _nanoseconds(text: str | None) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) * 1_000_000_000 if text else 0
