"""The flow record as a value: what one verdict says, as it travels on the topics of flows.

``enrich/schemas/flow.schema.json`` describes the record field by field; its names are those of GKE's network policy log
where that log has one. :func:`decode_flow` is the only place that reads a record from JSON. It ignores keys that it
does not know, because the schema grows by added keys, and refuses a record without a key that the schema requires.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from enrich.wire.bounds import Octet, Port, Small

Side = Literal["src", "dest"]
"""An end of the connection: the packets' source, or their destination."""
_SIDES: Final[dict[str, tuple[Side, ...]]] = {"src": ("src",), "dest": ("dest",), "either": ("src", "dest")}


class _Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """Keys stand in the record in the order of the fields; a key whose value is the default is left out."""


class NamedPolicy(_Part, frozen=True, kw_only=True):
    """A policy that decided, or that isolates the pod."""

    kind: str
    namespace: str = ""
    """Empty for a kind that belongs to no namespace."""
    name: str

    @property
    def path(self) -> str:
        """``NAMESPACE/NAME``, or ``NAME`` where there is no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class NamedService(_Part, frozen=True, kw_only=True):
    """A Service."""

    namespace: str
    name: str

    @property
    def path(self) -> str:
        """``NAMESPACE/NAME``."""
        return f"{self.namespace}/{self.name}"


class End(_Part, frozen=True, kw_only=True):
    """One end of the connection: a pod (``pod_name``), a node (``node_name`` alone), an address that was neither
    (``instance``), or nothing where no address is known."""

    pod_name: str = ""
    namespace: str = ""
    pod_namespace: str = ""
    """The same once more: GKE has both."""
    workload_kind: str = ""
    workload_name: str = ""
    pod_uid: str = ""
    labels: dict[str, str] | None = None
    """The labels that ``WEIR_LABELS`` chooses; None where the labels of the end are not known."""
    node_name: str = ""
    zone: str = ""
    instance: str = ""
    service: NamedService | None = None
    ambiguous: bool = False

    @property
    def pod(self) -> str:
        """``NAMESPACE/NAME`` of the pod; empty if the end is not a pod."""
        return f"{self.namespace}/{self.pod_name}" if self.pod_name else ""

    @property
    def workload(self) -> str:
        """``KIND/NAME`` of what runs the pod; empty if nothing does, or if it is not known."""
        return f"{self.workload_kind}/{self.workload_name}" if self.workload_name else ""


class Connection(_Part, frozen=True, kw_only=True):
    """The five-tuple, as far as there is one: a flood is counted without addresses, ICMP has no ports."""

    src_ip: str = ""
    dest_ip: str = ""
    src_port: Port | None = None
    dest_port: Port | None = None
    protocol: str = ""
    direction: Literal["ingress", "egress"]


class Icmp(_Part, frozen=True, kw_only=True):
    """Type and code of ICMP and ICMPv6."""

    type: Octet
    code: Octet


class Dialled(_Part, frozen=True, kw_only=True):
    """The address that was dialled, before a Service's DNAT."""

    ip: str
    port: Port
    service: NamedService | None = None


class Decision(_Part, frozen=True, kw_only=True):
    """What a verdict says without its ends, addresses, ports and times. Few distinct ones exist, so they are hashable.

    The fields have the names that :class:`Flow` has them under, so that a condition reads either."""

    direction: Literal["ingress", "egress"]
    protocol: str
    disposition: str
    reason: str
    policies: tuple[NamedPolicy, ...]
    isolated_by: tuple[NamedPolicy, ...]
    node_name: str
    aggregated: bool
    logged: bool = True


class Flow(_Part, frozen=True, kw_only=True):
    """One record. ``subject`` is the pod whose policy decided, ``peer`` the other end."""

    connection: Connection
    icmp: Icmp | None = None
    disposition: str
    reason: str
    policies: tuple[NamedPolicy, ...]
    isolated_by: tuple[NamedPolicy, ...]
    src: End
    dest: End
    count: Small
    timestamp: str
    """RFC 3339, UTC, nine digits of nanoseconds; of the first packet counted."""
    last_timestamp: str
    node_name: str
    cluster: str
    schema: int
    aggregated: bool = False
    logged: bool = True
    """False for a denial that is not logged, and that only ``flows.denied`` has, for alerts."""
    id: str
    dialled: Dialled | None = None

    @property
    def direction(self) -> Literal["ingress", "egress"]:
        """As the subject sees it."""
        return self.connection.direction

    @property
    def protocol(self) -> str:
        """A name or the IANA number as text; empty if it is not known."""
        return self.connection.protocol

    @property
    def subject(self) -> End:
        """The pod whose policy decided."""
        return self.dest if self.connection.direction == "ingress" else self.src

    @property
    def peer(self) -> End:
        """The other end."""
        return self.src if self.connection.direction == "ingress" else self.dest

    @property
    def ports(self) -> tuple[int, ...]:
        """The destination port and the port that was dialled, as far as there are any."""
        port = () if self.connection.dest_port is None else (self.connection.dest_port,)
        return port if self.dialled is None else (*port, self.dialled.port)

    def end(self, side: Side) -> End:
        """The end on a side."""
        return self.src if side == "src" else self.dest

    def ip(self, side: Side) -> str:
        """The address of the end on a side; empty if it is not known."""
        return self.connection.src_ip if side == "src" else self.connection.dest_ip

    def text(self, side: Side, nothing: str = "-") -> str:
        """The end on a side as people read it: ``NAMESPACE/POD``, else its address, else its node, else ``nothing``."""
        end = self.end(side)
        return end_text(end.pod, self.ip(side), end.node_name) or nothing


def end_text(pod: str, ip: str, node: str) -> str:
    """Return the name of an end for people: its pod, else its address, else its node."""
    return pod or ip or node


def sides(role: str, direction: str) -> tuple[Side, ...]:
    """The sides that a role means in a direction. ``role``: src, dest, subject, peer, or either for both."""
    if role in _SIDES:
        return _SIDES[role]
    return _SIDES["dest" if (role == "subject") == (direction == "ingress") else "src"]


_DECODER: Final = msgspec.json.Decoder(Flow)


def decode_flow(value: bytes) -> Flow:
    """Read a record. Raises ValueError for bytes that are not one."""
    try:
        return _DECODER.decode(value)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def encode(part: object) -> str:
    """Render a part of a record as the JSON that stands in it."""
    return msgspec.json.encode(part).decode()
