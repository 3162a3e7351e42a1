"""Which node, or which Service, has an address, and since when.

An address may move: a node is replaced and another one gets its address, or a Service is deleted and another one gets
its cluster IP. A verdict from before the move is not about the new owner, and may be read much later. So it is noted
when an address got another owner than it had before, and nobody is named for an earlier time. Who had an address first
is not known to have had it at any time before; but that is what people expect of a node that was never replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final

from enrich.model import EndpointSlice, Name, Node, Service

_LIMIT: Final = 100_000
"""So many addresses are remembered that lost their owner, the ones that lost it last."""


class NamedAddresses:
    """The addresses of nodes and Services. One thread at a time writes; any thread may look up."""

    def __init__(self, skew_ns: int, limit: int = _LIMIT) -> None:
        """``skew_ns``: by how much the clocks of nodes may differ from ours."""
        self._skew_ns, self._limit = skew_ns, limit
        self._nodes: dict[str, Node] = {}
        self._services: dict[str, Service] = {}
        self._outside: dict[str, set[Name]] = {}
        self._left: dict[str, None] = {}
        self._since_ns: dict[str, int] = {}
        self._latest_move_ns = 0

    def update(self, touched: Collection[type], objects: Mapping[type, Mapping[Name, Any]], now_ns: int) -> None:
        """Read the objects again of the kinds that changed now."""
        if Node in touched:
            nodes = {ip: node for node in objects[Node].values() for ip in node.ips}
            self._note_moves(self._nodes, nodes, now_ns)
            self._nodes = nodes
        if Service in touched:
            services = {ip: made for made in objects[Service].values() for ip in made.cluster_ips}
            self._note_moves(self._services, services, now_ns)
            self._services = services
        if EndpointSlice in touched:
            outside: dict[str, set[Name]] = defaultdict(set)
            for made in objects[EndpointSlice].values():
                for ip in made.addresses:
                    outside[ip].add(Name(made.namespace, made.service))
            self._outside = outside

    def _note_moves(
        self, before: Mapping[str, Node | Service], after: Mapping[str, Node | Service], now_ns: int
    ) -> None:
        for ip, owner in before.items():
            if (now := after.get(ip)) is None or now.uid != owner.uid:
                self._left.pop(ip, None)
                self._left[ip] = None
        for ip, owner in after.items():
            if ip in self._left and ((was := before.get(ip)) is None or was.uid != owner.uid):
                self._since_ns[ip] = now_ns + self._skew_ns
                self._latest_move_ns = max(self._latest_move_ns, now_ns + self._skew_ns)
        while len(self._left) > self._limit:
            ip = next(iter(self._left))
            del self._left[ip]
            self._since_ns.pop(ip, None)

    @property
    def latest_move_ns(self) -> int:
        """The wall time from which every present owner surely has its address; 0: no address has another owner than
        before. Verdicts that are not older need no look at :meth:`since_ns`."""
        return self._latest_move_ns

    def since_ns(self, ip: str) -> int:
        """Return the wall time from which the present owner of an address surely has it; 0: nobody else was seen."""
        return self._since_ns.get(ip, 0)

    def node(self, ip: str) -> Node | None:
        """Return the node that has an address."""
        return self._nodes.get(ip)

    def service(self, ip: str) -> Service | None:
        """Return the Service that has a cluster IP."""
        return self._services.get(ip)

    def service_behind(self, ip: str) -> Name | None:
        """Name the Service behind which an address stands that is not a pod's; None if there is none, or several."""
        found = self._outside.get(ip, ())
        return next(iter(found)) if len(found) == 1 else None
