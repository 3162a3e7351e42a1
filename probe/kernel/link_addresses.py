"""The link-layer address of each pod's interface, from which alone its frames may come (``bpf/own_frames.h``).

With it the interface's link-local address, the only one that the pod may announce (``bpf/neighbours.h``). Both are read
in the same way: the link-local one is what the kernel makes of the other (RFC 4291 appendix A), unless the interface
has another one only, as it has by ``addr_gen_mode``.

Theory of operation. A pod with the right to change its interface can give itself any address, another pod's too. So the
address is read from outside, by netlink, at three moments:

1. When an interface gets its programs, before anything is known of it. CNI plugins may change the address after that.
2. With each review of the interfaces of which nothing is known yet, until a pod is bound to it.
3. When a pod is bound to it. With the CNI plugin that is before the pod's first process runs. From now on the
   address is *fixed*: it is in a pinned map, so a restart of the probe does not read it again.

Two ports of a bridge cannot have one address: the one that was fixed first keeps it, and the other interface is
closed until it has another one. An interface whose address cannot be read, or has no place in the map, is closed too,
and the next pass tries again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

import numpy as np

from probe.kernel.layout import LINK_ADDRESS, Config
from probe.kernel.maps import Maps
from probe.node.links import Link, get_link, read_link
from probe.node.netlink import NodeNetwork, addresses_in


class LinkAddresses:
    """The map ``link_addresses``. Its user has a lock."""

    def __init__(self, maps: Maps, network: NodeNetwork) -> None:
        self._maps, self._table, self._network = maps, maps["link_addresses"], network

    def learn(self, index: int, *, fix: bool, anew: bool = False) -> str | None:
        """Read an interface's address, unless it is fixed; ``fix`` fixes it.

        ``anew`` says that an entry may be that of an earlier interface with this index. Return why the interface has
        no address, None if it has one or needs none (``WEIR_POD_FRAMES=any``). Raises OSError if it is gone.
        """
        problem = self._learn(index, fix=fix, anew=anew)
        return None if self._maps.config(Config.ANY_FRAME) else problem

    def _learn(self, index: int, *, fix: bool, anew: bool) -> str | None:
        found = self._table.get(_key(index))
        if found is not None and found["is_fixed"] and not anew:
            return None
        link = self._network.run(get_link, index)
        try:
            address, link_local = self._network.run(_addresses_behind, link)
        except OSError as error:
            self.forget(index)
            return f"the link-layer address of its other end cannot be read: {error.strerror}"
        if other := self._with_same(link, address):
            self.forget(index)
            return f"it has the link-layer address of {other}, which is at the same bridge"
        value = np.zeros(1, LINK_ADDRESS)
        value["address"], value["link_local"] = np.frombuffer(address, "u1"), np.frombuffer(link_local, "u1")
        value["is_fixed"] = fix
        try:
            self._table.set(_key(index), value.tobytes())
        except OSError as error:  # the map is full: this interface is closed, and all others go on
            self.forget(index)
            return f"the map has no place for its link-layer address: {error.strerror}"
        return None

    def is_fixed(self, index: int) -> bool:
        """Return whether the interface has an address that does not change any more, or needs none."""
        found = self._table.get(_key(index))
        return bool((found is not None and found["is_fixed"]) or self._maps.config(Config.ANY_FRAME))

    def forget(self, index: int) -> None:
        """Remove the address of an interface that is gone or has none; no frame from it passes."""
        self._table.drop(_key(index))

    def keep(self, indexes: Collection[int]) -> None:
        """Forget those of all other interfaces."""
        for key in self._table.items():
            if int.from_bytes(key, "little") not in indexes:
                self._table.drop(key)

    def _with_same(self, link: Link, address: bytes) -> str | None:
        """Return the name of another port of the link's bridge whose pod's address this is."""
        for key, raw in self._table.items().items() if link.master else ():
            index, value = int.from_bytes(key, "little"), np.frombuffer(raw, LINK_ADDRESS)[0]
            if index != link.index and value["is_fixed"] and value["address"].tobytes() == address:
                other = self._network.run(read_link, index)
                if other and other.master == link.master:
                    return other.name
        return None


def _addresses_behind(link: Link) -> tuple[bytes, bytes]:
    """Return the address of a veth's other end, and its link-local IPv6 address. Raises OSError."""
    address = get_link(link.peer, namespace=link.namespace).address
    found = {ipaddress.IPv6Address(text).packed for index, text in addresses_in(link.namespace)
             if index == link.peer and text.startswith("fe80:")}  # fmt: skip
    usual = _link_local_of(address)
    return address, usual if usual in found or not found else min(found)


def _link_local_of(address: bytes) -> bytes:
    """Return fe80::/64 with the modified EUI-64 of an Ethernet address."""
    return b"\xfe\x80" + bytes(6) + bytes([address[0] ^ 2]) + address[1:3] + b"\xff\xfe" + address[3:]


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
