"""One pod's possession of one address, and how the watch's observations become such an interval.

THEORY OF OPERATION

An address belongs to one pod for an interval of time. Both ends of the interval are blurred, because the API server
reports a change after it happened, so an interval has four times: ``first`` <= ``start`` <= ``end`` <= ``last``. The
pod surely had the address from ``start`` to ``end``, and surely not before ``first`` or after ``last``. A pod is named
for a moment between ``start`` and ``end`` if no other pod may have had the address then. Otherwise the answer is
ambiguous: a wrong name is worse than an address without a name.

An example, in seconds after 12:00:00, with clocks that may differ by 1 s (``skew``):

1. The watch receives pod a with 10.0.0.1 at 9.0. It had been in sync until 8.5. The pod's status says startTime 5 and
   PodReadyToStartContainers 7. The interval's ``first`` is 5; its ``start`` is 8, because the API cuts fractions off.
2. The watch receives the deletion at 30.0, having been in sync until 29.5. ``end`` is 28.5: the sandbox is taken down
   before the API says so, by another machine's clock. ``last`` is 30.0.
3. Verdicts about 10.0.0.1: at 20 the other end is pod a. At 7 and at 29 it is ambiguous. At 3 (before ``first`` - skew)
   and at 32 the other end is not a pod.
4. Pod b gets 10.0.0.1 at 30. A verdict at 29.5 might be about either: ambiguous. So is one at 30.5, within a's skew.
5. The probe of the node publishes what it saw of a's interface: 6.2 to 28.4, by the clock of node n1. This replaces the
   watch's interval of a, and verdicts of n1 need no skew: one at 28.0 names pod a.

Intervals that have ended stay for the tail, so that a late verdict still finds its pod; then ``Addresses.evict``
removes them. A probe's open interval of a pod that the watch does not know is ended after a minute, because its probe
died; but not while the API server is away, because then the watch knows no new pod.

How many that have ended are kept has a limit (:mod:`enrich.index.ended_intervals`), and so has how many are open of
pods that the watch does not know (:mod:`enrich.index.unconfirmed_intervals`).
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


def not_sure_before(interval: Interval, until: int) -> Interval:
    """Return the interval as one that may not have begun before ``until``, if it goes on after it."""
    if interval.start_ns >= until or interval.last_ns < until:
        return interval
    return msgspec.structs.replace(interval, start_ns=min(until, interval.end_ns))


def held_ips(pod: Pod | None) -> tuple[str, ...]:
    """Return the addresses that are the pod's alone: a terminated pod has none, and a hostNetwork pod its node's."""
    return () if pod is None or pod.terminated or pod.host_network else pod.ips


def neighbourhood(ip: str) -> bytes | str:
    """Return the /24 or /64 that an address is in."""
    if ":" not in ip:
        return ip.rpartition(".")[0]
    return socket.inet_pton(socket.AF_INET6, ip)[:8]
