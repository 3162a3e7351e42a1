"""One pod's possession of one address, and how the watch's observations become such an interval.

The theory of operation is in :mod:`enrich.index.addresses`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

import msgspec

from enrich.model import Pod

FOREVER: Final = (1 << 63) - 1
SECOND: Final = 1_000_000_000


class Interval(msgspec.Struct, frozen=True, gc=False):
    """The time for which a pod has an address, in nanoseconds of the wall clock.

    The pod does not have the address before ``first_ns``, has it from ``start_ns`` to ``end_ns``, and does not have it
    after ``last_ns``. In between it is not known."""

    uid: str
    first_ns: int
    start_ns: int
    end_ns: int = FOREVER
    last_ns: int = FOREVER
    clock: str = ""
    """The node whose clock measured the times; empty for the API's and this process' clocks."""
    published_ns: int = 0
    """When the watch reported the address; 0 if the pod was in the first list, or if a probe reported it."""


@dataclass(frozen=True, slots=True)
class AddressOwner:
    """Who had an address at a moment; neither a pod nor ``ambiguous``: no pod had it."""

    pod: Pod | None = None
    ambiguous: bool = False
    """A pod may have had it, and it is not known which."""
    candidates: tuple[str, ...] = ()
    """The UIDs of the pods that the answer was made from."""


def listed_interval(pod: Pod) -> Interval:
    """Make the interval of a pod that was in the first list: who had the address before it is not known."""
    if not pod.started_ns:
        return Interval(pod.uid, -FOREVER, -FOREVER)
    return Interval(pod.uid, pod.acknowledged_ns or pod.started_ns, pod.started_ns + SECOND)


def observed_interval(pod: Pod, now: int, synced_until: int) -> Interval:
    """Make the interval of a pod whose address appeared in the watch between ``synced_until`` and ``now``.

    The API's times have no fractions, so that the start is up to a second later than they say; it is never later than
    its observation."""
    start = min(pod.started_ns + SECOND, now) if pod.started_ns else now
    first = min(pod.acknowledged_ns or pod.started_ns or synced_until, synced_until, start)
    return Interval(pod.uid, first, start, published_ns=now)


def ended(interval: Interval, uid: str, end: int, last: int) -> Interval:
    """End the interval if it is open and belongs to this pod; return it as it is otherwise."""
    if interval.uid != uid or interval.last_ns != FOREVER:
        return interval
    return msgspec.structs.replace(interval, end_ns=max(end, interval.start_ns), last_ns=last)


def held_ips(pod: Pod | None) -> tuple[str, ...]:
    """Return the addresses that are the pod's alone: a terminated pod has none, and a hostNetwork pod its node's."""
    return () if pod is None or pod.terminated or pod.host_network else pod.ips


def neighbourhood(ip: str) -> bytes | str:
    """Return the /24 or /64 that an address is in."""
    if ":" not in ip:
        return ip.rpartition(".")[0]
    return socket.inet_pton(socket.AF_INET6, ip)[:8]
