"""Marks the addresses of Services in the kernel's table of addresses.

A packet to a Service's address reaches a pod only after kube-proxy's DNAT. So the kernel program decides where the
packet leaves the node, by the destination that it has then (``bpf/policy.c``). The mark is the kind:

- SERVICE: where nothing translates the address, it is an address outside the cluster. It keeps the identity of the IP
  blocks that contain it.
- POD_SERVICE: a tenant may choose another tenant's pod's address as a Service's external IP. It keeps the pod's
  identity, by which it is judged at ports that the Service does not translate.
- An address that is also a node's keeps that identity and kind. A connection to it is judged as such at once, and again
  where the packet leaves the node, as that of a NodePort is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from enrich.model import Name, Service
from probe.policy.desired import POD, POD_SERVICE, SERVICE, WORLD, AddressKey, Desired, Identity, host_key
from probe.policy.lpm import PrefixTable


class DialledAddresses:
    """The addresses of all Services, put together again only if a Service has changed."""

    def __init__(self) -> None:
        self._services: Mapping[Name, Service] = {}
        self._addresses: frozenset[str] = frozenset()

    def of(self, services: Mapping[Name, Service]) -> frozenset[str]:
        """Return the addresses that clients of these Services dial."""
        if services is not self._services:
            self._services = services
            self._addresses = frozenset(ip for service in services.values() for ip in service.addresses)
        return self._addresses


class ServiceAddresses:
    """Remembers which addresses were marked, to return only what changed since the last call."""

    def __init__(self) -> None:
        self._keys: frozenset[AddressKey] = frozenset()

    def changed_entries(
        self, desired: Desired, addresses: Iterable[str], *, whole: bool
    ) -> dict[AddressKey, Identity | None]:
        """Return what the map must hold for each key that Services or ``desired`` changed; None removes the entry.

        ``addresses`` are those of all Services now. ``whole`` returns every Service's address, changed or not.
        """
        keys, before = frozenset(map(host_key, addresses)), self._keys
        changed = desired.changed_keys.addresses
        self._keys = keys
        # A changed block may change the identity of every Service's address inside it.
        if whole or any(length != 128 for _, length in changed):
            checked = keys | before
        else:
            checked = (keys ^ before) | (keys & changed)
        if not checked:
            return {}
        blocks: PrefixTable[Identity] = PrefixTable()
        for (address, length), identity in desired.addresses.items():
            if length != 128:
                blocks.set(int.from_bytes(address, "big"), length, identity)
        return {
            key: _service_identity(desired, key, blocks) if key in keys else desired.addresses.get(key)
            for key in checked
        }  # fmt: skip


def _service_identity(desired: Desired, key: AddressKey, blocks: PrefixTable[Identity]) -> Identity:
    own = desired.addresses.get(key)
    if own is not None and own.kind != WORLD:
        return Identity(own.number, POD_SERVICE) if own.kind == POD else own
    around = own or blocks.longest(int.from_bytes(key[0], "big"))
    return Identity(around.number if around else 0, SERVICE)
