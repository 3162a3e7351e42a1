"""Who had which address when.

An address belongs to one pod for an interval. What is known of an interval has four times: the pod did not have the
address before the first, had it between the second and the third, and not after the last. Between the first two and
the last two nobody can say. The watch tells them roughly; the probe of the pod's node exactly, and its word counts for
more. A pod is named for a moment that lies between the second and the third, where no other pod may have had the
address; else none is: a wrong name is worse than an address. Clocks of different machines may differ by the skew.

Intervals of pods that are gone are kept for the tail, so that a record that comes late is still named. Terminated pods
hold no address; a hostNetwork pod's are its node's.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from enrich.model import Pod
from enrich.wire.address_interval import AddressInterval

FOREVER: Final = (1 << 63) - 1
_SECOND: Final = 1_000_000_000
"""The API's times have no fractions: what happened is up to a second later."""
_UNCONFIRMED_NS: Final = 60 * _SECOND
"""An interval that a probe left open, of a pod that the watch does not know by then, has ended who knows when."""


class Interval(msgspec.Struct, frozen=True, gc=False):
    """A pod's hold of an address (wall clock); ``clock``: the node whose clock says so, empty for the API's;
    ``told_ns``: when the watch told it, 0 where it was there before we looked."""

    uid: str
    first_ns: int
    start_ns: int
    end_ns: int = FOREVER
    last_ns: int = FOREVER
    clock: str = ""
    published_ns: int = 0


@dataclass(frozen=True, slots=True)
class PodAt:
    """Who had an address at a moment. ``ambiguous``: that is not certain, and nobody is named."""

    pod: Pod | None = None
    ambiguous: bool = False


class Addresses:
    """The intervals of every address, and the pods by UID. One writer; readers need no lock."""

    def __init__(self, tail_ns: int, skew_ns: int) -> None:
        self._tail_ns, self._skew_ns = tail_ns, skew_ns
        self._watched: dict[str, tuple[Interval, ...]] = {}
        self._exact: dict[str, tuple[Interval, ...]] = {}
        self._by_uid: dict[str, Pod] = {}
        self._existing: set[str] = set()
        self._departed: deque[tuple[int, str, tuple[str, ...]]] = deque()
        self._unconfirmed: dict[tuple[str, str], int] = {}
        self._blocks: set[bytes | str] = set()

    # --- what the watch says

    def change(self, before: Pod | None, after: Pod | None, now: int, known: int, *, listed: bool) -> None:
        """A pod of one name is another, or comes, or goes. ``known``: until when the watch had told everything, so
        that this happened between then and ``now``. ``listed``: it was there before we looked."""
        known = min(known, now)
        if before is not None and (after is None or before.uid != after.uid):
            self._existing.discard(before.uid)
            self._release(before, _held_ips(before), now, known)
            before = None
        if after is None:
            return
        self._by_uid[after.uid] = after
        self._existing.add(after.uid)
        held, wanted = _held_ips(before), _held_ips(after)
        if held == wanted:
            return
        interval = _listed(after) if listed else _seen(after, now, known)
        for ip in wanted:
            if ip not in held:
                self._watched[ip] = (*self._watched.get(ip, ()), interval)
                self._blocks.add(_block(ip))
        lost = tuple(ip for ip in held if ip not in wanted)
        if before is not None and lost:
            self._release(before, lost, now, known)

    def _release(self, pod: Pod, ips: tuple[str, ...], now: int, known: int) -> None:
        # A pod is taken down before the API says so.
        end = known - self._skew_ns
        for ip in ips:
            self._watched[ip] = tuple(_ended(one, pod.uid, end, now) for one in self._watched.get(ip, ()))
            if ip in self._exact:
                # What a probe that has died left open; one that lives will tell it exactly.
                self._exact[ip] = tuple(_ended(one, pod.uid, end, now) for one in self._exact[ip])
        self._departed.append((now, pod.uid, ips))

    # --- what probes say

    def hold(self, told: AddressInterval, now: int) -> None:
        """A pod's interval, exactly."""
        last = FOREVER if told.last is None else told.last
        end = FOREVER if told.end is None else told.end
        interval = Interval(told.uid, told.first, told.start, end, last, sys.intern(told.node))
        self._exact[told.ip] = (*self._others(told.ip, told.uid), interval)
        self._blocks.add(_block(told.ip))
        if told.uid not in self._by_uid:
            self._by_uid[told.uid] = told.as_pod()
        if last != FOREVER:
            self._unconfirmed.pop((told.uid, told.ip), None)
            self._departed.append((now, told.uid, (told.ip,)))
        elif told.uid not in self._existing:
            self._unconfirmed[told.uid, told.ip] = now

    def forget_interval(self, uid: str, ip: str) -> None:
        """The probe's word on it ends."""
        if ip in self._exact:
            self._keep_exact(ip, self._others(ip, uid))
        self._unconfirmed.pop((uid, ip), None)
        self._forget_pod(uid)

    def _others(self, ip: str, uid: str) -> tuple[Interval, ...]:
        return tuple(one for one in self._exact.get(ip, ()) if one.uid != uid)

    def _keep_exact(self, ip: str, rest: tuple[Interval, ...]) -> None:
        if rest:
            self._exact[ip] = rest
        else:
            self._exact.pop(ip, None)

    # --- what is over

    def forget(self, now: int) -> None:
        """Drop what ended longer ago than the tail."""
        limit = now - self._tail_ns
        while self._departed and self._departed[0][0] < limit:
            _, uid, ips = self._departed.popleft()
            for ip in ips:
                rest = tuple(one for one in self._watched.get(ip, ()) if one.last_ns >= limit)
                if rest:
                    self._watched[ip] = rest
                else:
                    self._watched.pop(ip, None)
                self._keep_exact(ip, tuple(one for one in self._exact.get(ip, ()) if one.last_ns >= limit))
            self._forget_pod(uid)
        for (uid, ip), since in list(self._unconfirmed.items()):
            if uid in self._existing:
                del self._unconfirmed[uid, ip]
            elif now - since > _UNCONFIRMED_NS:
                del self._unconfirmed[uid, ip]
                self._exact[ip] = tuple(_ended(one, uid, one.start_ns, now) for one in self._exact.get(ip, ()))
                self._departed.append((now, uid, (ip,)))

    def _forget_pod(self, uid: str) -> None:
        pod = self._by_uid.get(uid)
        if (
            pod is not None
            and uid not in self._existing
            and not any(one.uid == uid for ip in pod.ips for one in self._intervals(ip))
        ):
            del self._by_uid[uid]

    # --- who it was

    def _intervals(self, ip: str) -> Iterator[Interval]:
        exact = self._exact.get(ip, ())
        yield from exact
        told = {one.uid for one in exact}
        yield from (one for one in self._watched.get(ip, ()) if one.uid not in told)

    def pod_around(self, ip: str, at_ns: int, node: str = "") -> tuple[PodAt, int, int]:
        """Who had an address at a moment of the wall clock, and since and until when (not included) that is so.

        ``node``: whose clock the moment is of; empty: nobody's that is known.
        """
        since, until = -FOREVER, FOREVER
        near: set[str] = set()
        certain = False
        for one in self._intervals(ip):
            skew = 0 if one.clock and one.clock == node else self._skew_ns
            first, after = one.first_ns - skew, one.last_ns + skew + 1
            if first <= at_ns < after:
                near.add(one.uid)
                certain = certain or one.start_ns <= at_ns < one.end_ns
            for turn in (first, one.start_ns, one.end_ns, after):
                if turn <= at_ns:
                    since = max(since, turn)
                else:
                    until = min(until, turn)
        if not near:
            return PodAt(), since, until
        pod = self._by_uid.get(next(iter(near))) if certain and len(near) == 1 else None
        return PodAt(pod, ambiguous=pod is None), since, until

    def is_pods(self, ip: str) -> bool:
        """Whether pods have, or had, addresses in its neighbourhood (a /24, a /64): then it is likely a pod's."""
        return bool(ip) and _block(ip) in self._blocks

    def published_ns(self, uid: str, ip: str) -> int:
        """When the watch told that a pod has an address, where a kubelet says so; 0: it was listed, or is not known.

        What is in a manifest without a status is told before it is so. A sandbox that is made anew may keep the
        address: that its pod has one again (PodReadyToStartContainers) says nothing of when it got that."""
        pod = self._by_uid.get(uid)
        told = max((one.published_ns for one in self._watched.get(ip, ()) if one.uid == uid), default=0)
        return told if pod is not None and pod.begun_ns and pod.started_ns <= told else 0

    def by_uid(self, uid: str) -> Pod | None:
        """A pod that exists or did lately, as it was last seen."""
        return self._by_uid.get(uid)

    def size(self) -> int:
        """Addresses and pods that are remembered."""
        return len(self._watched) + len(self._exact) + len(self._by_uid)


def _listed(pod: Pod) -> Interval:
    """One that was there already: since it started, where that is known; nobody knows who was there before."""
    if not pod.started_ns:
        return Interval(pod.uid, -FOREVER, -FOREVER)
    return Interval(pod.uid, pod.begun_ns or pod.started_ns, pod.started_ns + _SECOND)


def _seen(pod: Pod, now: int, known: int) -> Interval:
    """One that got its address under our eyes: since it started, or we saw it; but not in the future."""
    start = min(pod.started_ns + _SECOND, now) if pod.started_ns else now
    first = min(pod.begun_ns or pod.started_ns or known, known, start)
    return Interval(pod.uid, first, start, published_ns=now)


def _ended(one: Interval, uid: str, end: int, last: int) -> Interval:
    if one.uid != uid or one.last_ns != FOREVER:
        return one
    return msgspec.structs.replace(one, end_ns=max(end, one.start_ns), last_ns=last)


def _held_ips(pod: Pod | None) -> tuple[str, ...]:
    return () if pod is None or pod.terminated or pod.host_network else pod.ips


def _block(ip: str) -> bytes | str:
    if ":" not in ip:
        return ip.rpartition(".")[0]
    return socket.inet_pton(socket.AF_INET6, ip)[:8]
