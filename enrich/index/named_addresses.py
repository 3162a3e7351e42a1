"""Which nodes and Services have an address, now and before.

An address may move: a node is replaced and another one gets its address, or a Service is deleted and another one gets
its cluster IP. A verdict from before the move is about the former owner, and may be read much later
(:mod:`enrich.index.former_values`). Who had an address first counts as its owner at any time before; that is what
people expect of a node that was never replaced.

An address may have several owners. Services share an external or a load balancer's address by ports and protocols, so
these addresses are looked up with both. Where two owners are left, none is named.

At the address of a node, a Service is dialled by the protocol and the port that the API server has given to it alone.

Anybody who may create Services chooses how many of these pairs there are, so they are bounded. A Service with more than
``_MAX_PAIRS`` claims its addresses with every port, and then they are not named. While all Services together have more
than ``MAX_OUTER``, no such address is named. Which addresses are named now depends on nothing but the Services that
there are, so a worker that starts again names the same ones.

A node has more addresses than the API lists: those of its tunnel and bridge, which send in place of pods
(:mod:`enrich.parse.node_addresses`). Some are said by annotations. Others are the first two of the range of the node's
pods, which plugins reserve, but not all of them do: once a pod has been seen at such an address, none of them is taken
for a node's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from enrich.index.changes import Key
from enrich.index.former_values import FormerValues
from enrich.model import EndpointSlice, Name, Node, Object, Service

MAX_OUTER: Final = 50_000
"""Outer addresses with their ports that are kept; while Services have more, none is named."""
OUTER_BYTES: Final = 400
"""What one of them takes, about: measured, and rounded up."""
_MAX_PAIRS: Final = 4096
"""Outer addresses times ports of one Service that are kept."""
_EVERY_PORT: Final = (-1, -1)
"""In place of the protocol and the port: a Service has more pairs than are kept."""
_ANY_NODE: Final = ""
"""In place of the address: a port that a Service has at the addresses of all nodes."""

_Claimed = TypeVar("_Claimed", bound=Hashable)
ServiceAddress = tuple[str, int, int]
"""An external or a load balancer's address, or that of any node (an outer one), with protocol and port."""


class AddressName(NamedTuple):
    """The only owner that an address may have had at a moment."""

    owner: Name | None
    """None: it had none, or which one is not known."""
    since_ns: int
    until_ns: int
    """The answer is the same from ``since_ns`` until ``until_ns`` (not included)."""
    is_disputed: bool = False
    """Whether several may have been its owner."""


class _Claims(Generic[_Claimed]):
    """The owners of some kind of addresses, now and before."""

    def __init__(self, tail_ns: int, skew_ns: int) -> None:
        self._owners: dict[_Claimed, tuple[Name, ...]] = {}
        self.former: FormerValues[_Claimed, tuple[Name, ...]] = FormerValues(tail_ns, skew_ns)

    def change(
        self, owner: Name, before: Iterable[_Claimed], after: Iterable[_Claimed], now: int, synced_until: int
    ) -> None:
        """Take over that an owner has other addresses than before."""
        earlier, present = set(before), set(after)
        for one in earlier ^ present:
            owners = self._owners.get(one, ())
            if owners or one in self.former:
                self.former.note(one, owners, now, synced_until)
            left = tuple(name for name in owners if name != owner)
            if one in present:
                self._owners[one] = (*left, owner)
            elif left:
                self._owners[one] = left
            else:
                self._owners.pop(one, None)

    def known(self) -> list[_Claimed]:
        """Return every address that has or had an owner."""
        return [*self._owners, *self.former.keys()]

    def now(self, one: _Claimed) -> Name | None:
        """Return the only owner that an address has now."""
        owners = self._owners.get(one, ())
        return owners[0] if len(owners) == 1 else None

    def at(self, one: _Claimed, at_ns: int) -> AddressName:
        """Return the only owner that an address may have had at a moment."""
        names, since, until = self._names_at(one, at_ns)
        return AddressName(next(iter(names)) if len(names) == 1 else None, since, until, len(names) > 1)

    def _names_at(self, one: _Claimed, at_ns: int) -> tuple[set[Name], int, int]:
        possible, since, until = self.former.at(one, at_ns, self._owners.get(one, ()))
        return {name for owners in possible for name in owners}, since, until


class _OuterClaims(_Claims[ServiceAddress]):
    """The Services that have external or load balancers' addresses, now and before."""

    @classmethod
    def of(cls, services: Iterable[Service], tail_ns: int, skew_ns: int, now: int) -> _OuterClaims:
        """Return the claims of all Services there are now. Who had the addresses before is not known."""
        made = cls(tail_ns, skew_ns)
        for service in services:
            made.change(service.key, (), _outer_addresses(service), now, now)
        made.former = FormerValues(tail_ns, skew_ns)
        made.former.forget_all(now)
        return made

    def at(self, one: ServiceAddress, at_ns: int) -> AddressName:
        """Return the only owner that an address may have had at a moment."""
        owner, since, until, disputed = super().at(one, at_ns)
        others, others_since, others_until = self._names_at((one[0], *_EVERY_PORT), at_ns)
        since, until = max(since, others_since), min(until, others_until)
        return AddressName(None if others else owner, since, until, disputed or bool(others))


class NamedAddresses:
    """The addresses of nodes and Services. One thread at a time writes; any thread may look up."""

    def __init__(self, tail_ns: int, skew_ns: int) -> None:
        """``tail_ns``: for how long former owners stay known. ``skew_ns``: by how much the clocks of nodes may differ
        from ours."""
        self._nodes: _Claims[str] = _Claims(tail_ns, skew_ns)
        self._tunnels: _Claims[str] = _Claims(tail_ns, skew_ns)
        self._reserved: _Claims[str] = _Claims(tail_ns, skew_ns)
        self._services: _Claims[str] = _Claims(tail_ns, skew_ns)
        self._tail_ns, self._skew_ns = tail_ns, skew_ns
        self._outer: _OuterClaims | None = _OuterClaims(tail_ns, skew_ns)
        """None while there are too many."""
        self._outer_count = 0
        """How many outer addresses with ports the Services have; one that several have counts several times."""
        self._are_reserved = True
        """Whether no pod has been seen at an address that plugins reserve for a node."""
        self._outside: dict[str, set[Name]] = {}

    def change(self, before: Object | None, after: Object | None, now: int, synced_until: int) -> list[Key]:
        """Take over a change of the Node or Service of one name, observed at ``now``; the index had every change
        until ``synced_until``. Return the keys of what it changes beside the addresses of the object."""
        made = after or before
        if isinstance(made, Node):
            was, new = _node(before), _node(after)
            self._nodes.change(made.key, was.ips, new.ips, now, synced_until)
            self._tunnels.change(made.key, was.tunnel_ips, new.tunnel_ips, now, synced_until)
            self._reserved.change(made.key, was.reserved_ips, new.reserved_ips, now, synced_until)
        elif isinstance(made, Service):
            old, young = _service(before), _service(after)
            self._services.change(made.key, old.cluster_ips, young.cluster_ips, now, synced_until)
            return self._change_outer(made.key, _outer_addresses(old), _outer_addresses(young), now, synced_until)
        return []

    def _change_outer(
        self, owner: Name, before: list[ServiceAddress], after: list[ServiceAddress], now: int, synced_until: int
    ) -> list[Key]:
        self._outer_count += len(after) - len(before)
        if self._outer is None:
            return []
        if self._outer_count <= MAX_OUTER:
            self._outer.change(owner, before, after, now, synced_until)
            return []
        named, self._outer = self._outer.known(), None
        return _outer_keys(named)

    def update(
        self, touched: Collection[type], objects: Mapping[type, Mapping[Name, Any]], now: int
    ) -> Collection[Key]:
        """Follow changes of some kinds: read the EndpointSlices again if any has changed, and the outer addresses if
        there were too many before. Return the keys of the addresses that may be named now."""
        if EndpointSlice in touched:
            outside: dict[str, set[Name]] = defaultdict(set)
            for made in objects[EndpointSlice].values():
                for ip in made.addresses:
                    outside[ip].add(Name(made.namespace, made.service))
            self._outside = outside
        if self._outer is not None or self._outer_count > MAX_OUTER:
            return ()
        outer = _OuterClaims.of(objects[Service].values(), self._tail_ns, self._skew_ns, now)
        self._outer = outer
        return _outer_keys(outer.known())

    def distrust_reserved(self, ips: Iterable[str]) -> list[Key]:
        """Note the addresses of a pod. Return the keys of what counted as reserved before and does not any more."""
        if not self._are_reserved or all(self._reserved.now(ip) is None for ip in ips):
            return []
        self._are_reserved = False
        return [Key("address", ip) for ip in self._reserved.known()]

    def evict(self, now: int) -> list[Key]:
        """Forget former owners that lost their address longer ago than the retention; return those addresses' keys."""
        kinds = (self._nodes, self._tunnels, self._reserved, self._services)
        ips = [ip for claims in kinds for ip in claims.former.evict(now)]
        return [Key("address", ip) for ip in ips] + _outer_keys(
            self._outer.former.evict(now) if self._outer is not None else ()
        )

    def node(self, ip: str) -> Name | None:
        """Return the node that has an address, by what the API lists."""
        return self._nodes.now(ip)

    def service(self, ip: str) -> Name | None:
        """Return the Service that has a cluster IP."""
        return self._services.now(ip)

    def node_at(self, ip: str, at_ns: int) -> AddressName:
        """Return the node that had an address at a moment, also one of its tunnel or its bridge."""
        kinds = (self._nodes, self._tunnels, self._reserved) if self._are_reserved else (self._nodes, self._tunnels)
        return _first([claims.at(ip, at_ns) for claims in kinds])

    def service_at(self, ip: str, protocol: int, port: int, at_ns: int) -> AddressName:
        """Return the Service that was dialled by an address, a protocol and a port at a moment: by an address of its
        own, or by that of any node."""
        outer, found = self._outer, [self._services.at(ip, at_ns)]
        if outer is None:
            # A node's address may be the external address of a Service, too.
            return found[0]
        node = self._nodes.at(ip, at_ns)
        found += [outer.at((ip, protocol, port), at_ns), AddressName(None, node.since_ns, node.until_ns)]
        return _first([*found, outer.at((_ANY_NODE, protocol, port), at_ns)] if node.owner is not None else found)

    def service_behind(self, ip: str) -> Name | None:
        """Name the Service behind which an address stands that is not a pod's; None if there is none, or several."""
        found = self._outside.get(ip, ())
        return next(iter(found)) if len(found) == 1 else None


def _first(found: list[AddressName]) -> AddressName:
    """Return the first owner. The answer holds for as long as all of them do."""
    since, until = max(one.since_ns for one in found), min(one.until_ns for one in found)
    first = next((one for one in found if one.owner is not None or one.is_disputed), found[0])
    return AddressName(first.owner, since, until)


def _node(made: Object | None) -> Node:
    return made if isinstance(made, Node) else Node("", "", {})


def _service(made: Object | None) -> Service:
    return made if isinstance(made, Service) else Service("", "", "")


def _outer_addresses(service: Service) -> list[ServiceAddress]:
    node_ports = [(_ANY_NODE, protocol, port) for protocol, port in service.node_ports]
    if len(service.outer_ips) * len(service.ports) > _MAX_PAIRS:
        return [(ip, *_EVERY_PORT) for ip in service.outer_ips] + node_ports
    return [(ip, protocol, port) for ip in service.outer_ips for protocol, port in service.ports] + node_ports


def _outer_keys(addresses: Iterable[ServiceAddress]) -> list[Key]:
    given = list(addresses)
    ports = [Key("node_port", (protocol, port)) for ip, protocol, port in given if ip == _ANY_NODE]
    return [Key("address", ip) for ip in {ip for ip, _, _ in given} - {_ANY_NODE}] + ports
