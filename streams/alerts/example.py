"""Examples: shortened flow records that an alert shows, so that people see at once what it is about."""

from __future__ import annotations

from typing import Final

import msgspec

from enrich.wire.bounds import Small
from enrich.wire.flow import Connection, Dialled, NamedPolicy, NamedService, end_text


class ExampleEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """An end of the connection, without labels and identifiers."""

    namespace: str = ""
    pod_name: str = ""
    workload_kind: str = ""
    workload_name: str = ""
    node_name: str = ""
    instance: str = ""
    service: NamedService | None = None

    def text(self, ip: str) -> str:
        """Return ``NAMESPACE/POD``, else the address, else the node, else ``many``: a flood has no single end."""
        pod = f"{self.namespace}/{self.pod_name}" if self.pod_name else ""
        return end_text(pod, ip, self.node_name) or "many"


class Example(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The fields of a flow record that people look for."""

    id: str
    timestamp: str
    connection: Connection
    disposition: str
    reason: str
    policies: tuple[NamedPolicy, ...]
    isolated_by: tuple[NamedPolicy, ...]
    count: Small
    dialled: Dialled | None = None
    src: ExampleEnd
    dest: ExampleEnd

    def sentence(self) -> str:
        """Return the record in one line: ``deny egress shop/web-0 -> data/db-0:5432 tcp (default_deny)``."""
        connection = self.connection
        ends = f"{self.src.text(connection.src_ip)} -> {self.dest.text(connection.dest_ip)}"
        port = "" if connection.dest_port is None else f":{connection.dest_port}"
        protocol = f" {connection.protocol}" if connection.protocol else ""
        return f"{self.disposition} {connection.direction} {ends}{port}{protocol} ({self.reason})"


_DECODER: Final = msgspec.json.Decoder(Example)


def shorten(value: bytes) -> msgspec.Raw:
    """Reduce a flow record, or an example, to the JSON of an example. Raises ValueError."""
    return msgspec.Raw(msgspec.json.encode(_DECODER.decode(value)))


def decode_example(value: bytes) -> Example:
    """Decode what :func:`shorten` returned. Raises ValueError."""
    return _DECODER.decode(value)
