"""The addresses of Services in the kernel's table of addresses. Pure.

Such an address becomes a pod's only by kube-proxy's DNAT, so that what goes there is judged where it leaves the node,
by the destination that it has then (``bpf/policy.c``). Where nothing translates it, it is an address of the world's: it
keeps the identity of the blocks around it. A pod's and a node's address stay what they are; a node's is judged as that,
and again where the packet leaves, as a NodePort is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from probe.policy.desired import WORLD, AddressKey, Desired, Identity, host_key

SERVICE: Final = 3
"""Kind of peer, as in ``bpf/layout.h``."""


class ServiceAddresses:
    """Which addresses are Services', from one change to the next."""

    def __init__(self) -> None:
        self._keys: frozenset[AddressKey] = frozenset()

    def changed_entries(
        self, desired: Desired, addresses: Iterable[str], *, whole: bool
    ) -> dict[AddressKey, Identity | None]:
        """What ``addresses`` make of the entries of ``desired`` (None: removed); ``whole``: not only of the touched."""
        keys, before = frozenset(map(host_key, addresses)), self._keys
        changed_keys = desired.changed_keys.addresses
        self._keys = keys
        if whole or any(length != 128 for _, length in changed_keys):
            checked = keys | before
        else:
            checked = (keys ^ before) | (keys & changed_keys)
        if not checked:
            return {}
        lengths = sorted({length for _, length in desired.ipcache}, reverse=True)
        return {
            key: _identity(desired.ipcache, key, lengths) if key in keys else desired.ipcache.get(key)
            for key in checked
        }


def _identity(entries: Mapping[AddressKey, Identity], key: AddressKey, lengths: Iterable[int]) -> Identity:
    own = entries.get(key)
    if own is not None and own.kind != WORLD:
        return own
    number = int.from_bytes(key[0], "big")
    for length in lengths:
        found = entries.get(((number >> (128 - length) << (128 - length)).to_bytes(16, "big"), length))
        if found is not None:
            return Identity(found.number, SERVICE)
    return Identity(0, SERVICE)
