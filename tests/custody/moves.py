"""What may happen to a connection that is opened while one generation of maps takes over from another.

If the table of connections is not shared, interfaces are moved one after the other, each with what its old programs
knew (docs/decisions/019-generations.md). So a later packet of a connection that is opened just then may meet programs
that do not know it yet. It is judged alone: dropped as one of an unknown flow until its connection is adopted, or, if
it has no handshake, logged as a connection of its own. It never passes where policy denies the connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.custody.packets import ICMP, ICMPV6
from tests.custody.records import Record
from tests.custody.script import Script
from tests.custody.wire import Flow, Wire

_ECHO_REPLIES: Final = {0, 129 << 8}
"""Type and code, as a key has them in place of a port."""
_ADOPTED_NS: Final = 5_000_000_000
"""A connection is adopted with its next packet, which TCP sends after some seconds at most."""


class Moves:
    """Knows the flows that were opened while interfaces were moved."""

    def __init__(self, script: Script, wire: Wire) -> None:
        self._moves, self._flows = script.moves, wire.flows
        self._backends = {(one.protocol, one.address, one.port): one for one in script.services}

    def opened(self, flow: Flow) -> bool:
        """Return whether a flow was opened while interfaces were moved on the node of one of its ends."""
        return self.during(flow, flow.first)

    def during(self, flow: Flow, at: int) -> bool:
        """Return whether interfaces were moved at a time on the node of one of a flow's ends."""
        nodes = {host.node for host in (flow.source, flow.destination) if host}
        return any(one.node in nodes and one.first <= at <= one.last for one in self._moves)

    def answered(self, record: Record) -> Flow | None:
        """Return the flow of which a record has taken an answer for a packet of its own."""
        key = record.key
        if key.protocol in {ICMP, ICMPV6}:
            if key.destination_port not in _ECHO_REPLIES:
                return None
            found: Iterable[Flow] = (
                flow for flow in self._flows.values()
                if not flow.key.is_error and flow.key.protocol == key.protocol
                and (flow.key.source, flow.key.destination) == (key.destination, key.source)
            )  # fmt: skip
        else:
            if to := self._backends.get((key.protocol, key.source, key.source_port)):
                key = key._replace(source=to.backend, source_port=to.backend_port)
            found = (flow for flow in (self._flows.get(key.reversed()),) if flow)
        return next((flow for flow in found if self.opened(flow) and self._is_in_time(flow, record)), None)

    @staticmethod
    def _is_in_time(flow: Flow, record: Record) -> bool:
        return flow.first <= record.at <= flow.first + _ADOPTED_NS
