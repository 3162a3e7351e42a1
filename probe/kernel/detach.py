"""Ends enforcement on a node: removes every filter, link and pin of ours, and leaves everybody else's."""

from __future__ import annotations

from pathlib import Path

from probe.node.filters import PREFIX, Filters, Hook
from probe.node.netlink import NodeNetwork


def detach(pins: Path, network: NodeNetwork) -> int:
    """Remove our filters from all devices and delete the pins; return how many pod interfaces were under policy.

    A link ends when its pin is deleted, because nothing else holds it (``probe.kernel.attach``). Maps and programs go
    with the last filter or link that uses them.
    """
    freed = 0
    filters = Filters(network)
    hooks: tuple[Hook, ...] = ("ingress", "egress")
    for device in network.devices():
        for hook in hooks:
            if name := filters.name(device.index, hook):
                filters.remove(device.index, hook)
                freed += name == f"{PREFIX}pod_egress"
    freed += len(list(pins.rglob("links/*_pod_egress")))
    for path in sorted(pins.rglob("*"), key=lambda found: len(found.parts), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if pins.exists():
        pins.rmdir()
    return freed
