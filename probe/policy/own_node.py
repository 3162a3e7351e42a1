"""Counts every address that the node holds as the node's: it is the machine, not what the API server lists of it.

The API server lists a node's InternalIP. A pod also reaches its node by the gateway's address on a bridge, by a second
network card's, and by 169.254.20.10, where NodeLocal DNS listens; whichever it dials, the packet is delivered locally.
Three kinds of addresses do not count, although the node may hold them:

- a pod's: identities give a pod that holds an address precedence over a node (:mod:`probe.policy.identities`);
- a Service's, unless the API server lists it as the node's: kube-proxy in IPVS mode puts them all on an interface of
  the node, and NodeLocal DNS puts one there. Behind it may be any pod, so it is judged after DNAT;
- loopback addresses, which no packet on the wire may have (:meth:`probe.node.netlink.NodeNetwork.node_addresses`).
"""

from __future__ import annotations

import dataclasses

from enrich.model import Node
from enrich.policy.matching import PolicyView


class OwnNode:
    """Makes the own node's object; equal input gives the same object again, which the compiler recognizes fast."""

    def __init__(self) -> None:
        self._made: Node | None = None

    def complete(self, view: PolicyView, own_addresses: frozenset[str], services: frozenset[str]) -> PolicyView:
        """Return ``view`` with the addresses that the node holds as addresses of its own node.

        ``services`` are the addresses of all Services.
        """
        if not view.own_node:
            return view
        listed = Node(view.own_node, "", {})
        listed = view.nodes.get(listed.key, listed)
        node = dataclasses.replace(listed, ips=(*listed.ips, *sorted(own_addresses - services - set(listed.ips))))
        if node != self._made:
            self._made = node
        return dataclasses.replace(view, nodes={**view.nodes, node.key: self._made})
