"""Chooses the sizes of the kernel's maps that no setting fixes, from how many pods the node can have and its memory.

The pods' number is rounded up to a power of two, and with it all sizes. So a node that has a few pods more or less at
the next start keeps its sizes, because another size is another generation of maps (:mod:`probe.kernel.generations`).
For the same reason the sizes in force stay if each is the chosen one or twice that, or if the API server does not say
how many pods the node can have. They stay all together or not at all: if another generation has to be made, it gets the
sizes of today's node and settings. So sizes grow by themselves, and shrink after a reboot, or when the node can have a
quarter of the pods, but never below the pods' interfaces that are in the maps.

Example: a node for 110 pods is sized for 128, with 131,072 connections. With 8 GiB of memory its maps may take 256 MiB,
and take 100 MiB. If it can have 250 pods after a restart of the kubelet, the next start of the probe makes maps for
256.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PODS: Final = 256
"""Pods that the node is sized for if it is not known how many it can have. Most nodes have 110 or 250."""
_MIN_ENDPOINTS: Final = 128
_MAX_ENDPOINTS: Final = 4096
"""More than any kubelet runs. Simulated nodes, which have no kubelet, state a million."""
_CONNECTIONS_EACH: Final = 1024
_MAX_CONNECTIONS: Final = 1 << 19
_DENIED_FLOWS_EACH: Final = 64
_MIN_DENIED_FLOWS: Final = 1 << 14
_FRAGMENTS_EACH: Final = 16
_MIN_FRAGMENTS: Final = 1 << 14
_RING_BYTES: Final = 16 << 20
_MIN_RING_BYTES: Final = 1 << 20
_MIN_EACH: Final = 8
"""Connections, denied flows and fragments that each pod has however small the memory is: each has a reserve."""
_MEMORY_FRACTION: Final = 32
_LIMIT_FRACTION: Final = 2
BYTES: Final = {
    "CONNECTIONS": 490,
    "DENIED_FLOWS": 320,
    "FRAGMENTS": 312,
    "ENDPOINTS": 7000,
    "RING_BYTES": 1,
    "POLICY_ENTRIES": 16,
    "LOCAL_ADDRESSES": 16,
}
"""Memory that the kernel takes for one unit of each size, at once. The maps of policy and of addresses take more for
what is in them."""
_TRAFFIC_BYTES: Final = 200
"""Memory of what a connection carries (WEIR_ENDS)."""
_FIXED_BYTES: Final = 7 << 20
"""Memory of the maps of fixed size."""
_SHRINKS: Final = ("CONNECTIONS", "RING_BYTES", "DENIED_FLOWS", "FRAGMENTS")
"""What is halved where memory is small."""
_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def chosen(
    requested: Mapping[str, int | None],
    pods: int | None,
    memory_bytes: int,
    in_force: Sequence[Mapping[str, int]],
    interfaces: int = 0,
) -> dict[str, int]:
    """Return all sizes. ``requested`` has those of the settings, None for those that are to be chosen.

    ``pods``: how many the node can have; None: not known. ``memory_bytes``: what the maps may take.
    ``in_force``: the sizes of each generation that is found. ``interfaces``: how many interfaces of pods the maps hold.
    """
    fixed = {name: size for name, size in requested.items() if size is not None}
    free = [name for name, size in requested.items() if size is None]
    usable = [sizes for sizes in in_force if requested.keys() <= sizes.keys()]
    fitting = [sizes for sizes in usable if all(sizes[name] == size for name, size in fixed.items())]
    fitting.sort(key=memory_of, reverse=True)
    if pods is None and fitting:
        return {name: fitting[0][name] for name in requested}
    if pods is None:
        pods = max((sizes["ENDPOINTS"] for sizes in usable), default=PODS)
    # A map that is full may have turned a pod away.
    made = _bounded(_by_pods(max(pods, interfaces + 1), fixed), free, memory_bytes)
    for sizes in fitting:
        if all(sizes[name] in (made[name], 2 * made[name]) for name in free):
            return {name: sizes[name] for name in requested}
    return {name: made[name] for name in requested}


def memory_of(sizes: Mapping[str, int]) -> int:
    """Return about how many bytes the kernel takes for maps of these sizes."""
    ends = _TRAFFIC_BYTES * sizes["CONNECTIONS"] + sizes["RING_BYTES"] // 4 if sizes.get("ENDS") else 0
    return _FIXED_BYTES + sum(BYTES[name] * size for name, size in sizes.items() if name in BYTES) + ends


def memory_for_maps(meminfo: Path = Path("/proc/meminfo"), limits: tuple[Path, ...] = _CGROUP_LIMITS) -> int:
    """Return how many bytes the maps may take: a part of the node's memory, and of the container's limit.

    The kernel charges maps to the control group of the process that makes them (since 5.11)."""
    total = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:"))
    allowed = int(total.split()[1]) * 1024 // _MEMORY_FRACTION
    for path in limits:
        # One of them is missing, and a container's runtime may hide the other.
        with contextlib.suppress(OSError):
            text = path.read_text().strip()
            allowed = min(allowed, int(text) // _LIMIT_FRACTION) if text.isdigit() else allowed
    return allowed


def _by_pods(pods: int, fixed: Mapping[str, int]) -> dict[str, int]:
    """Return sizes for this many pods, with those that are fixed."""
    endpoints = min(_MAX_ENDPOINTS, max(_MIN_ENDPOINTS, _power_of_two(pods)))
    for name in ("CONNECTIONS", "DENIED_FLOWS", "FRAGMENTS"):
        # Each pod needs a reserve of what a setting fixes.
        while name in fixed and 4 * endpoints > fixed[name] and endpoints > 1:
            endpoints //= 2
    endpoints = fixed.get("ENDPOINTS", endpoints)
    each = _power_of_two(endpoints)
    return {
        "ENDPOINTS": endpoints,
        "CONNECTIONS": max(_MIN_EACH * each, min(_MAX_CONNECTIONS, _CONNECTIONS_EACH * each)),
        "DENIED_FLOWS": max(_MIN_DENIED_FLOWS, _DENIED_FLOWS_EACH * each),
        "FRAGMENTS": max(_MIN_FRAGMENTS, _FRAGMENTS_EACH * each),
        "RING_BYTES": _RING_BYTES,
        **fixed,
    }


def _bounded(sizes: dict[str, int], free: list[str], memory_bytes: int) -> dict[str, int]:
    """Halve sizes that are free, the largest map first, until all fit the memory or are as small as they can be."""
    made = dict(sizes)
    least = {name: _MIN_EACH * _power_of_two(made["ENDPOINTS"]) for name in _SHRINKS} | {"RING_BYTES": _MIN_RING_BYTES}
    while memory_of(made) > memory_bytes:
        names = [name for name in _SHRINKS if name in free and made[name] // 2 >= least[name]]
        if not names:
            break
        largest = max(names, key=lambda name: BYTES[name] * made[name])
        made[largest] //= 2
    return made


def _power_of_two(number: int) -> int:
    """Return the least power of two that is not below ``number``."""
    return 1 << max(0, number - 1).bit_length()
