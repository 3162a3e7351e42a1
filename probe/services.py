"""The addresses of Services in the kernel's table of addresses. Pure.

Such an address becomes a pod's only by kube-proxy's DNAT, so that what goes there is judged where it leaves the node,
by the destination that it has then (``bpf/policy.c``). Where nothing translates it, it is an address of the world's: it
keeps the identity of the blocks around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from probe.desired import NODE, POD, WORLD, Desired, Identity, host_key

SERVICE: Final = 3
"""Kind of peer, as in ``bpf/layout.h``."""


def with_services(desired: Desired, addresses: Iterable[str]) -> Desired:
    """``desired`` with the Services' addresses marked.

    A pod's and a node's stay what they are; a node's is judged as that, and again where the packet leaves, as a
    NodePort is.
    """
    taken = dict(desired.ipcache)
    for key in map(host_key, addresses):
        if key in desired.ipcache and desired.ipcache[key].kind in (POD, NODE):
            continue
        taken[key] = Identity(_covering(desired.ipcache, key[0]), SERVICE)
    return dataclasses.replace(desired, ipcache=taken)


def _covering(entries: Mapping[tuple[bytes, int], Identity], address: bytes) -> int:
    number = int.from_bytes(address, "big")
    for length in range(128, -1, -1):
        found = entries.get(((number >> (128 - length) << (128 - length)).to_bytes(16, "big"), length))
        if found is not None and found.kind == WORLD:
            return found.number
    return 0
