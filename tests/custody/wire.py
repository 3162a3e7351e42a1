"""The wire's side of the account: captured packets, put together to flows and compared at both ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.custody.packets import FIRST, LATER, Packet, Tuple
from tests.custody.script import Host, Script


@dataclass
class Way:
    """The packets of one direction of a flow, at the interface that sends them and at the one that receives them."""

    sent: list[Packet] = field(default_factory=list)
    arrived: list[Packet] = field(default_factory=list)
    later_sent: int = 0
    later_arrived: int = 0

    def missing(self) -> list[Packet]:
        """Return what was sent and has not arrived."""
        left, found = Counter(packet.mark for packet in self.arrived), []
        for packet in self.sent:
            if left[packet.mark] > 0:
                left[packet.mark] -= 1
            else:
                found.append(packet)
        return found

    def invented(self) -> int:
        """Return how many packets have arrived that were not sent."""
        return sum((Counter(p.mark for p in self.arrived) - Counter(p.mark for p in self.sent)).values())


@dataclass
class Flow:
    """All packets with one five-tuple, which the script uses once; and those of an ICMP error between two addresses."""

    key: Tuple
    """As it was opened, with the backend's address in place of a Service's."""
    dialled: tuple[str, int] | None
    forward: Way = field(default_factory=Way)
    back: Way = field(default_factory=Way)
    source: Host | None = None
    destination: Host | None = None
    first: int = 0
    last: int = 0

    def add(self, packet: Packet, *, is_reply: bool) -> None:
        """Note a packet."""
        way = self.back if is_reply else self.forward
        if packet.fragment == LATER:
            way.later_sent += packet.is_sent
            way.later_arrived += not packet.is_sent
        else:
            (way.sent if packet.is_sent else way.arrived).append(packet)
        self.first = self.first or packet.at
        self.last = packet.at


class Wire:
    """All flows."""

    def __init__(self, script: Script, packets: Iterable[Packet]) -> None:
        self._script = script
        self._backends = {(one.protocol, one.address, one.port): one for one in script.services}
        self._translated = {one.address: one.backend for one in script.services}
        self._places = {host.place: host for host in script.hosts if host.place}
        self.flows: dict[Tuple, Flow] = {}
        self.unknown = 0
        """Later fragments without a first one."""
        self._fragmented: dict[tuple[str, bool, int, str, str], tuple[Flow, bool]] = {}
        for packet in sorted(packets, key=lambda packet: packet.at):
            self._add(packet)
        for flow in self.flows.values():
            self._find_hosts(flow)

    def _add(self, packet: Packet) -> None:
        flow = packet.flow
        datagrams = packet.place, packet.is_sent, flow.protocol, flow.source, flow.destination
        if packet.fragment == LATER:
            if datagrams in self._fragmented:
                found, is_reply = self._fragmented[datagrams]
                found.add(packet, is_reply=is_reply)
            else:
                self.unknown += 1
            return
        found, is_reply = self._flow_of(packet)
        found.add(packet, is_reply=is_reply)
        if packet.fragment == FIRST:
            self._fragmented[datagrams] = found, is_reply

    def _flow_of(self, packet: Packet) -> tuple[Flow, bool]:
        key, dialled = packet.flow, None
        if key.is_error:
            source, destination = (self._translated.get(one, one) for one in (key.source, key.destination))
            key = key._replace(source=source, destination=destination)
        elif to := self._backends.get((key.protocol, key.destination, key.destination_port)):
            key = key._replace(destination=to.backend, destination_port=to.backend_port)
            dialled = to.address, to.port
        elif to := self._backends.get((key.protocol, key.source, key.source_port)):
            key = key._replace(source=to.backend, source_port=to.backend_port)
        if key in self.flows:
            return self.flows[key], packet.is_reply
        if (answered := key.reversed()) in self.flows and not key.is_error:
            return self.flows[answered], True
        return self.flows.setdefault(key, Flow(key, dialled)), packet.is_reply

    def _find_hosts(self, flow: Flow) -> None:
        """Find both ends: by the captures that have seen the packets, else by who had the address then."""
        forward, back = flow.forward, flow.back
        places = [
            next((packet.place for packet in packets), "")
            for packets in (forward.sent or back.arrived, forward.arrived or back.sent)
        ]
        addresses = flow.key.source, flow.key.destination
        captured = [self._places.get(place) for place in places]
        flow.source, flow.destination = (
            host or self._script.holder(address, flow.first, other.node if other else "")
            for host, address, other in zip(captured, addresses, reversed(captured), strict=True)
        )
        # Nothing is captured at a node: what it sends is what arrives, and what is sent to it arrives.
        for host, ways in ((flow.source, (forward, back)), (flow.destination, (back, forward))):
            if host is None or not host.place:
                ways[0].sent, ways[0].later_sent = ways[0].arrived, ways[0].later_arrived
                ways[1].arrived, ways[1].later_arrived = ways[1].sent, ways[1].later_sent
