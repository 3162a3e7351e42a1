"""Who had which address when.

An address belongs to one pod for an interval. Intervals of pods that are gone are kept for ``tail`` so that a record
that comes late is still named. Where two pods may have had it at a moment, none is named: a wrong name is worse than an
address. Terminated pods hold no address; a hostNetwork pod's are its node's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from enrich.model import Pod

_FOREVER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A pod had an address from ``start_ns`` until ``end_ns`` (wall clock)."""

    start_ns: int
    end_ns: int
    pod: Pod


@dataclass(frozen=True, slots=True)
class PodAt:
    """Who had an address at a moment. ``ambiguous``: more than one may have, and none is named."""

    pod: Pod | None = None
    ambiguous: bool = False


class Addresses:
    """The intervals of every address, and the pods by UID. One writer; readers need no lock."""

    def __init__(self, tail_ns: int, skew_ns: int) -> None:
        self._tail_ns, self._skew_ns = tail_ns, skew_ns
        self._by_ip: dict[str, tuple[Interval, ...]] = {}
        self._by_uid: dict[str, Pod] = {}
        self._existing: set[str] = set()
        self._departed: deque[tuple[int, Pod]] = deque()

    def change(self, before: Pod | None, after: Pod | None, now: int, *, listed: bool) -> None:
        """A pod of one name is another, or comes, or goes. ``listed``: it was there before we looked."""
        if before is not None and (after is None or before.uid != after.uid):
            for ip in _held_ips(before):
                self._close(ip, before.uid, now)
            self._existing.discard(before.uid)
            self._departed.append((now, before))
            before = None
        if after is None:
            return
        self._by_uid[after.uid] = after
        self._existing.add(after.uid)
        held, wanted = _held_ips(before), _held_ips(after)
        # One that was there already has had its address since it started; a new one too, but not from the future.
        start = (after.started_ns or -_FOREVER) if listed else min(after.started_ns or now, now)
        for ip in wanted - held:
            self._by_ip[ip] = (*self._by_ip.get(ip, ()), Interval(start, _FOREVER, after))
        for ip in wanted & held:
            self._by_ip[ip] = tuple(replace(i, pod=after) if i.pod.uid == after.uid else i for i in self._by_ip[ip])
        for ip in held - wanted:
            self._close(ip, after.uid, now)
        if before is not None and held - wanted:
            self._departed.append((now, before))

    def _close(self, ip: str, uid: str, now: int) -> None:
        self._by_ip[ip] = tuple(
            replace(one, end_ns=now) if one.pod.uid == uid and one.end_ns == _FOREVER else one
            for one in self._by_ip.get(ip, ())
        )

    def forget(self, now: int) -> None:
        """Drop what ended longer ago than the tail."""
        limit = now - self._tail_ns
        while self._departed and self._departed[0][0] < limit:
            pod = self._departed.popleft()[1]
            for ip in pod.ips:
                rest = tuple(one for one in self._by_ip.get(ip, ()) if one.end_ns >= limit)
                if rest:
                    self._by_ip[ip] = rest
                else:
                    self._by_ip.pop(ip, None)
            if pod.uid not in self._existing:
                self._by_uid.pop(pod.uid, None)

    def pod_around(self, ip: str, at_ns: int) -> tuple[PodAt, int, int]:
        """Who had an address at a moment of the wall clock, and since and until when (not included) that is so.

        Within the skew of a change of owner it is ambiguous: clocks may differ by so much.
        """
        skew, since, until = self._skew_ns, -_FOREVER, _FOREVER
        near: dict[str, Pod] = {}
        for one in self._by_ip.get(ip, ()):
            start, end = one.start_ns - skew, min(one.end_ns, _FOREVER - skew - 1) + skew + 1
            if start <= at_ns < end:
                near[one.pod.uid] = one.pod
            for turn in (start, end):
                if turn <= at_ns:
                    since = max(since, turn)
                else:
                    until = min(until, turn)
        if len(near) > 1:
            return PodAt(ambiguous=True), since, until
        return PodAt(next(iter(near.values()), None)), since, until

    def by_uid(self, uid: str) -> Pod | None:
        """A pod that exists or did lately, as it was last seen."""
        return self._by_uid.get(uid)

    def size(self) -> int:
        """Addresses and pods that are remembered."""
        return len(self._by_ip) + len(self._by_uid)


def _held_ips(pod: Pod | None) -> set[str]:
    return set() if pod is None or pod.terminated or pod.host_network else set(pod.ips)
