"""The outline of a flow record: what differs from record to record as values, what repeats as JSON bytes.

A busy topic holds many records of few combinations of ends, policies and port. A reader that asks the same questions of
each, such as the counting of alerts, answers them once for each combination: it decodes the outline, looks its
:attr:`FlowOutline.key` up in a dictionary, and calls :func:`enrich.wire.flow.decode_flow` only if the key is new.
Decoding an outline and making its key takes about as long as decoding the whole record, but spares every question that
follows; the parts that are left as bytes are compared, not looked into.
"""

from __future__ import annotations

from typing import Final

import msgspec

from enrich.wire.bounds import Small
from enrich.wire.flow import Connection

FlowKey = tuple[str | int | bytes | None, ...]


class FlowOutline(msgspec.Struct, frozen=True, kw_only=True):
    """One record, decoded only in part. The bytes of ends and policies have not been validated."""

    connection: Connection
    disposition: str
    reason: str
    policies: msgspec.Raw
    isolated_by: msgspec.Raw
    src: msgspec.Raw
    dest: msgspec.Raw
    count: Small
    last_timestamp: str
    node_name: str
    cluster: str
    id: str
    dialled: msgspec.Raw = msgspec.Raw(b"")

    @property
    def key(self) -> FlowKey:
        """All records with the same key differ only in the source port, times, counts, ids and ICMP types."""
        connection = self.connection
        return (
            connection.src_ip,
            connection.dest_ip,
            connection.dest_port,
            connection.protocol,
            connection.direction,
            self.disposition,
            self.reason,
            bytes(self.policies),
            bytes(self.isolated_by),
            bytes(self.src),
            bytes(self.dest),
            self.node_name,
            self.cluster,
            bytes(self.dialled),
        )


_DECODER: Final = msgspec.json.Decoder(FlowOutline)


def decode_outline(value: bytes) -> FlowOutline:
    """Decode the outline of a record. Raises ValueError for bytes that cannot be a record."""
    try:
        return _DECODER.decode(value)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
