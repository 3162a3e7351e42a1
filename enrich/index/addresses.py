"""Which pod had which address when. The theory of operation is in :mod:`enrich.index.intervals`."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

from enrich.index.changes import Changes, Key
from enrich.index.ended_intervals import EndedIntervals
from enrich.index.intervals import (
    FOREVER,
    AddressOwner,
    Interval,
    ended,
    held_ips,
    listed_interval,
    not_sure_before,
    observed_interval,
)
from enrich.index.known_pods import KnownPods
from enrich.index.pod_ranges import PodRanges
from enrich.index.unconfirmed_intervals import UnconfirmedIntervals
from enrich.model import Pod
from enrich.wire.address_interval import AddressInterval


class Addresses:
    """The intervals of every address, and the pods by UID, also of pods that are gone for less than the tail.

    Writers hold ``lock``, the lock of the cluster's index; readers need none, because every value that they read is
    replaced and never changed. Every change is noted in ``changes``.
    """

    def __init__(
        self,
        tail_ns: int,
        skew_ns: int,
        now_ns: Callable[[], int],
        lock: threading.RLock,
        changes: Changes,
    ) -> None:
        self._tail_ns, self._skew_ns, self._now_ns = tail_ns, skew_ns, now_ns
        self._lock, self._changes = lock, changes
        self._complete_since_ns = 1 << 62
        self._watched: dict[str, tuple[Interval, ...]] = {}
        self._exact: dict[str, tuple[Interval, ...]] = {}
        self._pods = KnownPods(tail_ns, skew_ns, changes)
        self._departed: deque[tuple[int, str, tuple[str, ...]]] = deque()
        self.ended = EndedIntervals()
        """Intervals that probes have published and that have ended."""
        self.unconfirmed = UnconfirmedIntervals()
        self.former_pods, self.known_uids = self._pods.former, self._pods.uids
        """Pods by UID as they were before their labels or owners changed; the UIDs of the pods that are known now."""
        self.watched_until_ns = self.reported_until_ns = now_ns
        """Until when the index has every change of the API server, and every interval that probes have published."""
        self.ranges = PodRanges(changes)
        """Where pods have addresses."""

    def limit_nodes(self, is_known: Callable[[str], bool]) -> None:
        """Let all nodes that are not known share the limits of one."""
        self.ended.is_known = self.unconfirmed.is_known = is_known

    # --- what the watch reports

    def update_pod(self, before: Pod | None, after: Pod | None, now: int, synced_until: int, *, listed: bool) -> None:
        """Take over a change of the pod of one name, observed at ``now``; the index calls this under its lock.

        ``synced_until``: until when the index had every change, so that this one happened between then and ``now``.
        ``listed``: the pod was in the first list, and may have had its addresses for long."""
        synced_until = min(synced_until, now)
        if before is not None and (after is None or before.uid != after.uid):
            self._pods.disappear(before.uid)
            self._release(before, held_ips(before), now, synced_until)
            before = None
        if after is None:
            return
        self._pods.update(before, after, now, synced_until, listed=listed)
        held, expected = held_ips(before), held_ips(after)
        if held == expected:
            return
        interval = listed_interval(after) if listed else observed_interval(after, now, synced_until)
        for ip in expected:
            if ip not in held:
                self._enter(ip)
                self._watched[ip] = (*self._watched.get(ip, ()), interval)
        lost = tuple(ip for ip in held if ip not in expected)
        if before is not None and lost:
            self._release(before, lost, now, synced_until)

    def _release(self, pod: Pod, ips: tuple[str, ...], now: int, synced_until: int) -> None:
        # A pod's sandbox is taken down before the API says so.
        end = synced_until - self._skew_ns
        for ip in ips:
            self._watched[ip] = tuple(ended(one, pod.uid, end, now) for one in self._watched.get(ip, ()))
            if ip in self._exact:
                # A probe that has died left its interval open; a living one will publish the exact end.
                self._end_exact(ip, pod.uid, pod.node, end, now)
            self._changes.touch(Key("address", ip))
        self._departed.append((now, pod.uid, ips))

    def _end_exact(self, ip: str, uid: str, node: str, end: int, now: int) -> None:
        """End the open interval that a probe has published of a pod and an address, if there is one."""
        if any(one.uid == uid and one.last_ns == FOREVER for one in self._exact.get(ip, ())):
            self._exact[ip] = tuple(ended(one, uid, end, now) for one in self._exact[ip])
            self._note_ended(node, uid, ip, now, now)

    def _note_ended(self, node: str, uid: str, ip: str, last: int, now: int) -> None:
        self.ended.note(node, (uid, ip), last, now)
        for one, address in self.ended.excess(node):
            until = min([now, *(gone.last_ns for gone in self._exact[address] if gone.uid == one)]) + self._skew_ns
            self._drop(one, address)
            if address in self._exact:
                # Where the dropped one made it ambiguous who had the address, it stays so.
                self._exact[address] = tuple(not_sure_before(other, until) for other in self._exact[address])

    def _enter(self, ip: str) -> None:
        """Note that an address changes, before it does, and whether it was not in memory."""
        self._changes.touch(Key("address", ip))
        if ip not in self._watched and ip not in self._exact:
            self.ranges.enter(ip)

    def _forget_address(self, table: dict[str, tuple[Interval, ...]], ip: str, now: int) -> None:
        if table.pop(ip, None) is not None and ip not in self._watched and ip not in self._exact:
            self.ranges.leave(ip, now)

    # --- what probes report

    def add_interval(self, interval: AddressInterval) -> None:
        """Take over the exact interval that the probe of a pod's node published; it replaces the watch's."""
        with self._lock:
            now = self._now_ns()
            self._add(interval, now)
            # The watch may change nothing for long, and probes go on.
            self.evict(now)
            self._changes.publish()

    def _add(self, interval: AddressInterval, now: int) -> None:
        uid, ip = interval.uid, interval.ip
        last = FOREVER if interval.last is None else interval.last
        if last < now - self._tail_ns:
            # A worker that starts reads a day of them, and needs those of the retention.
            self._drop(uid, ip)
            self.ranges.remember(ip, last)
            return
        end = FOREVER if interval.end is None else interval.end
        exact = Interval(uid, interval.first, interval.start, end, last, sys.intern(interval.clock))
        self._enter(ip)
        self._exact[ip] = (*self._others(ip, uid), exact)
        self._pods.report(interval, now)
        if last != FOREVER:
            self.unconfirmed.discard((uid, ip))
            self._note_ended(interval.node, uid, ip, last, now)
            return
        self.ended.discard((uid, ip))
        if not self._pods.exists(uid):
            self.unconfirmed.note(interval.node, (uid, ip), now, now)
            for one, address in self.unconfirmed.give_up(interval.node, now):
                self._give_up(one, address, now)

    def remove_interval(self, uid: str, ip: str) -> None:
        """Forget the interval that a probe published of a pod and an address."""
        with self._lock:
            self._drop(uid, ip)
            self._changes.publish()

    def _drop(self, uid: str, ip: str) -> None:
        if ip in self._exact:
            self._set_exact(ip, self._others(ip, uid))
        self.unconfirmed.discard((uid, ip))
        self._evict_pod(uid)

    def _others(self, ip: str, uid: str) -> tuple[Interval, ...]:
        return tuple(one for one in self._exact.get(ip, ()) if one.uid != uid)

    def _set_exact(self, ip: str, rest: tuple[Interval, ...]) -> None:
        for one in self._exact.get(ip, ()):
            if one not in rest:
                self.ended.discard((one.uid, ip))
        if rest:
            self._exact[ip] = rest
        else:
            self._forget_address(self._exact, ip, self._now_ns())
        self._changes.touch(Key("address", ip))

    # --- eviction and completeness

    def evict(self, now: int) -> None:
        """Remove what ended longer ago than the tail; the index calls this under its lock."""
        limit = now - self._tail_ns
        self._changes.touch(*(Key("pod", uid) for uid in self.former_pods.evict(now)))
        while self._departed and self._departed[0][0] < limit:
            _, uid, ips = self._departed.popleft()
            for ip in ips:
                rest = tuple(one for one in self._watched.get(ip, ()) if one.last_ns >= limit)
                if rest:
                    self._watched[ip] = rest
                else:
                    self._forget_address(self._watched, ip, now)
                self._set_exact(ip, tuple(one for one in self._exact.get(ip, ()) if one.last_ns >= limit))
            self._evict_pod(uid)
        for uid, ip in self.ended.expired(limit):
            self._drop(uid, ip)
        for uid, ip in self.unconfirmed.due(now, self.watched_until_ns()):
            self._give_up(uid, ip, now)

    def _give_up(self, uid: str, ip: str, now: int) -> None:
        if not self._pods.exists(uid):
            pod = self._pods.get(uid)
            self._end_exact(ip, uid, pod.node if pod else "", -FOREVER, now)
            self._changes.touch(Key("address", ip))

    def _evict_pod(self, uid: str) -> None:
        pod = self._pods.get(uid)
        if pod is None or self._pods.exists(uid):
            return
        if not any(one.uid == uid for ip in pod.ips for one in self._intervals(ip)):
            self._pods.evict(uid)

    def set_complete_since(self, since_ns: int) -> None:
        """Declare that intervals are known from this moment on, also of pods that were gone before the first list."""
        with self._lock:
            self._complete_since_ns = min(self._complete_since_ns, since_ns)

    def complete_since_ns(self) -> int:
        """Return the moment before which pods that had an address may be unknown: never learnt, or evicted since."""
        now = self._now_ns()
        dropped = max(self.ended.dropped_until_ns, self.unconfirmed.unsure_until_ns(now))
        return max(self._complete_since_ns, now - self._tail_ns, dropped)

    # --- reading

    def _intervals(self, ip: str) -> Iterator[Interval]:
        exact = self._exact.get(ip, ())
        yield from exact
        reported = {one.uid for one in exact}
        yield from (one for one in self._watched.get(ip, ()) if one.uid not in reported)

    def owner_at(self, ip: str, at_ns: int, node: str = "") -> AddressOwner:
        """Return who had an address at a moment; see :meth:`owner_around`."""
        return self.owner_around(ip, at_ns, node)[0]

    def owner_around(self, ip: str, at_ns: int, node: str = "") -> tuple[AddressOwner, int, int]:
        """Return who had an address at a moment of the wall clock, and since and until when (not included) the answer
        is the same. ``node``: the node whose clock measured the moment; empty if that is not known."""
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
            return AddressOwner(), since, until
        pod = self._pods.get(next(iter(near))) if certain and len(near) == 1 else None
        return AddressOwner(pod, ambiguous=pod is None, candidates=tuple(near)), since, until

    def reported_owner(self, ip: str, at_ns: int, node: str) -> Pod | None:
        """Return who had an address at a moment by what probes have published, although the API server may know more.

        Whoever has read all that probes have published knows the ends of their intervals, too."""
        if at_ns > self.reported_until_ns():
            return None
        found = self.owner_at(ip, at_ns, node)
        reported = any(found.pod is not None and one.uid == found.pod.uid for one in self._exact.get(ip, ()))
        return found.pod if reported else None

    def published_ns(self, uid: str, ip: str) -> int:
        """Return when the API server published that a pod has an address; 0 if that is not known.

        It is not known for a pod in the first list; for a pod from a manifest without a status; or for a pod whose
        sandbox was recreated: the new sandbox may keep the address, and the later PodReadyToStartContainers does not
        say when the pod got it."""
        pod = self._pods.get(uid)
        published = max((one.published_ns for one in self._watched.get(ip, ()) if one.uid == uid), default=0)
        return published if pod is not None and pod.acknowledged_ns and pod.started_ns <= published else 0

    def is_watched(self, uid: str) -> bool:
        """Whether the watch has a pod of this UID now."""
        return self._pods.exists(uid)

    def watched_intervals(self, ip: str) -> tuple[Interval, ...]:
        """Return who had an address when, by what the watch observed alone."""
        return self._watched.get(ip, ())

    def pod_by_uid(self, uid: str) -> Pod | None:
        """Return a pod that exists, or that was deleted within the retention, as it was last seen."""
        return self._pods.get(uid)

    def size(self) -> int:
        """Count the addresses and pods in memory."""
        return len(self._watched) + len(self._exact) + len(self._pods)
