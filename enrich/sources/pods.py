"""Pods out of the API's JSON, fast: there are a hundred thousand of them, and each is 3 kB.

The bytes are decoded straight into the few fields that are kept; all else is skipped, not built. Labels, owners and
ports recur (a Deployment's pods have the same), so equal ones are one object. What the API server has checked is not
checked again. A pod that does not fit these shapes is None here: :mod:`enrich.objects` says what is wrong with it.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from enrich.model import NamedPort, Owner, Pod, Protocol

_MOST: Final = 100_000
"""Distinct labels, owners or ports that are shared; then it begins anew."""
_READY: Final = "PodReadyToStartContainers"
_PROTOCOLS: Final = {"": Protocol.TCP, **{protocol.name: protocol for protocol in Protocol}}
_NONE: Final = msgspec.Raw()

T = TypeVar("T")


class _Meta(msgspec.Struct, gc=False, rename="camel"):
    name: str
    uid: str
    namespace: str = "default"
    resource_version: str = ""
    labels: msgspec.Raw = _NONE
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
    """What is kept of a pod, as the API names it."""

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


class Shared(dict[Any, Any]):
    """Values by what they were read from, each once; bounded."""

    def of(self, key: Any, make: Callable[[], T]) -> T:
        """The value that was made of an equal key, or the one that is made now."""
        found: T | None = self.get(key, self)  # itself, for none
        if found is not self:
            return found  # type: ignore[return-value]  # None is a value too
        if len(self) >= _MOST:
            self.clear()
        made = self[key] = make()
        return made


class PodReader:
    """Makes pods that share what they have in common. One thread."""

    def __init__(self) -> None:
        self._labels, self._owners, self._ports = Shared(), Shared(), Shared()

    def read(self, item: PodJson) -> Pod:
        """The pod. Raises ValueError for values that the API server would not have taken."""
        meta, spec, status = item.metadata, item.spec, item.status
        addresses = [_canonical(entry.ip) for entry in status.ips] if status.ips else []
        if not addresses and status.ip:
            addresses = [_canonical(status.ip)]
        labels, owners = bytes(meta.labels), bytes(meta.owner_references)
        begun = _nanoseconds(status.start)
        return Pod(
            sys.intern(meta.namespace),
            meta.name,
            meta.uid,
            self._labels.of(labels, lambda: _read_labels(labels)),
            tuple(addresses),
            sys.intern(spec.node_name),
            spec.host_network,
            status.phase in ("Succeeded", "Failed"),
            self._read_ports(spec),
            self._owners.of(owners, lambda: _controller(owners)) if owners else None,
            _ready(status.conditions) or begun,
            begun,
        )

    def _read_ports(self, spec: _Spec) -> tuple[NamedPort, ...]:
        # Init containers that go on running (restartPolicy Always) have ports too.
        found = tuple(
            (port.name, port.container_port, port.protocol)
            for container in (
                *(spec.containers or ()),
                *(one for one in spec.init_containers or () if one.restart_policy == "Always"),
            )
            for port in container.ports or ()
            if port.name
        )
        if not found:
            return ()
        return self._ports.of(found, lambda: tuple(NamedPort(n, p, _PROTOCOLS[t]) for n, p, t in found))


def _read_labels(raw: bytes) -> dict[str, str]:
    labels = (_labels_of(raw) if raw else None) or {}
    return {sys.intern(key): sys.intern(value) for key, value in labels.items()}


def _controller(raw: bytes) -> Owner | None:
    for reference in _owners_of(raw) or ():
        if reference.controller:
            return Owner(sys.intern(reference.kind), reference.name, reference.uid)
    return None


def _canonical(text: str) -> str:
    if ":" in text:
        return str(ipaddress.IPv6Address(text))
    socket.inet_pton(socket.AF_INET, text)  # takes the canonical form only
    return text


def _ready(conditions: list[_Condition] | None) -> int:
    for condition in conditions or ():
        if condition.type == _READY and condition.status == "True":
            return _nanoseconds(condition.last_transition_time)
    return 0


def _nanoseconds(text: str | None) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) * 1_000_000_000 if text else 0
