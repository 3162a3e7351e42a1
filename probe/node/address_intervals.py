"""Publishes when each pod of this node has each of its addresses. Workers name the peers of connections by this.

Theory of operation, by an example. Pod web-0 has address 10.0.0.1 on interface 7:

1. Interface 7 appears after 12:00:00.000 and by 12:00:00.050 (``probe.node.link_clock`` explains the bounds).
2. Three seconds later the API server has published the address, and the agent binds interface 7 to web-0. The interval
   is published with ``first`` 12:00:00.000 and ``start`` 12:00:00.050: the pod did not have the address before
   ``first``, and surely has it from ``start`` on. Between the two, verdicts are not attributed.
3. Interface 7 disappears after 12:30:00.000 and by 12:30:00.040. The interval is published again with ``end``
   12:30:00.000 (it surely had the address until then) and ``last`` 12:30:00.040 (it did not have it afterwards).

Where the link clock observed nothing, because the probe was not running, the bounds are wider:

- The pod was there before the probe: ``first`` is its ``status.startTime``, and ``start`` the second after the time of
  its condition PodReadyToStartContainers, because the API server gives times in whole seconds.
- The interface disappeared while no probe ran: ``end`` is when the last probe last saw the pod, ``last`` is now. For
  that, the intervals are kept in a file beside the ledger, whose modification time is when the pods were last seen. It
  is brought up to date every second, also where nothing changes, and once more when the probe is stopped.

An interval has the labels that the pod had all the time: where one changes, the interval is published without it.

Each interval is published again once a day, because the compacted topic deletes what is a week old. A day after its end
it is deleted from the topic. The module knows no Kafka: its caller passes a function that publishes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from enrich.model import Pod
from enrich.runtime.private import make_private
from enrich.runtime.state_file import DamagedError, read_state, replace_state, set_aside
from enrich.wire.address_interval import INTERVAL_RETENTION_NS, AddressInterval, OwnerRef, encode_interval
from probe.node.link_clock import LinkClock

log = structlog.get_logger("kubeweir.probe")

_SECOND: Final = 1_000_000_000
_REPUBLISH_NS: Final = 24 * 3600 * _SECOND
_MAX_ENDED: Final = 4096
"""Ended intervals that are kept. Where pods come and go by the thousand, the oldest are forgotten before their day is
over. They stay in the topic until it deletes them itself, after a week."""
_TOUCH_NS: Final = _SECOND
"""How often the file's modification time is brought up to date. After a kill, verdicts about a pod that has disappeared
by the next start are not attributed from its last update on."""

Changes = Mapping[bytes, bytes | None]
"""Records for the topic by key; None deletes the key."""
_Key = tuple[str, str]
"""UID of the pod, address."""
_decode = msgspec.json.Decoder(list[AddressInterval]).decode


class AddressIntervals:
    """The address intervals of this node's pods."""

    def __init__(
        self,
        node: str,
        path: Path,
        publish: Callable[[Changes], None],
        clock: LinkClock,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``path`` is the file of the intervals, in the folder that lives as long as the pins."""
        self._node, self._path, self._publish, self._clock, self._now_ns = node, path, publish, clock, now_ns
        self._cluster: str | None = None
        self._bound: Mapping[int, Pod] | None = None
        self._intervals: dict[_Key, AddressInterval] = {}
        self._index: dict[_Key, int] = {}
        """Interface of each interval that has not ended, if this process bound it."""
        self._confirmed_ns = 0
        """When the pods were last seen on their interfaces, by this probe or the last one."""
        self._seen_ns = self._published_ns = self._saved_ns = 0
        self._lock = threading.Lock()
        self.ahead_ns: Callable[[], int | None] = lambda: None
        """Returns by how much the node's clock is ahead, as far as that is to be corrected; None: not measured yet."""
        self._ahead_ns: int | None = None
        self.problem: str | None = None
        """Why the file cannot be written, in words; None if it can."""

    def start(self, cluster: str) -> None:
        """Read the last intervals, and start to publish. Nothing is published before.

        Intervals of another cluster, which the node belonged to before, end: they are published once more in its name.
        """
        with self._lock:
            # When the cluster changes, memory is newer than the file if the disk took nothing.
            left = self._read() if self._cluster is None else list(self._intervals.values())
            self._intervals = {(found.uid, found.ip): found for found in left if found.cluster == cluster}
            self._cluster = cluster
            over = [one for one in left if one.cluster != cluster and one.last is None]
            ended = {one.key: encode_interval(self._ended(one, self._now_ns())) for one in over}
            bound, seen_ns = self._bound, self._seen_ns
        if ended:
            self._publish(ended)
        if bound is not None:
            self.update(bound, seen_ns)

    def _read(self) -> list[AddressInterval]:
        try:
            make_private(self._path)
            found = _decode(read_state(self._path))
            self._confirmed_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError, DamagedError) as error:
            set_aside(self._path, "address intervals", str(error),
                      "the last probe's address intervals stay in the topic as they are")  # fmt: skip
            return []
        return found

    def update(self, bound: Mapping[int, Pod], seen_ns: int) -> None:
        """Take the pods that are bound to interfaces now, by interface index; all were there at ``seen_ns``."""
        with self._lock:
            self._bound, self._seen_ns = bound, seen_ns
            if self._cluster is None:
                return
            now = self._now_ns()
            republish = self._follow_clock() or now - self._published_ns > _REPUBLISH_NS
            changed = self._change(bound, now, self._cluster)
            records = self._expire(now)
            records |= {
                interval.key: encode_interval(interval)
                for interval in (self._intervals if republish else changed).values()
            }
            self._published_ns = now if republish else self._published_ns
            self._note_seen(seen_ns, now)
            self._save(now, changed=bool(records))
        if records:
            self._publish(records)

    def confirm(self, seen_ns: int, *, at_once: bool = False) -> None:
        """Note that the pods of the last :meth:`update` were all still on their interfaces at ``seen_ns``.

        ``at_once``: write it although the last time was written less than a second ago.
        """
        with self._lock:
            if self._cluster is None or self._bound is None:
                return
            now = self._now_ns()
            self._note_seen(seen_ns, now)
            self._save(now, changed=False, at_once=at_once)

    def wait(self, wake: threading.Event, wait_s: float, seen_ns: Callable[[], int]) -> None:
        """Wait for an event, and confirm meanwhile that the pods are still there; ``seen_ns`` returns until when."""
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0 and not wake.wait(min(_TOUCH_NS / 1e9, left_s)):
            self.confirm(seen_ns())

    def _note_seen(self, seen_ns: int, now: int) -> None:
        # Where the clock was set back, what was noted before lies ahead of it, and would name the pod too long.
        self._confirmed_ns = max((at for at in (self._confirmed_ns, seen_ns) if at <= now), default=0)

    def _follow_clock(self) -> bool:
        """Note how wrong the clock is. Return whether the intervals are to be published again for that.

        If the clock was set, the times of open intervals become those that it would have shown; ended ones stay."""
        before, ahead = self._ahead_ns, self.ahead_ns()
        if ahead is None or ahead == before:
            return False
        self._ahead_ns = ahead
        wrong = {
            key: _by_other_clock(one, ahead, was_measured=before is not None or one.ahead != 0)
            for key, one in self._intervals.items()
            if one.ahead != ahead and (one.last is None or before is None)
        }
        self._intervals |= wrong
        return bool(wrong)

    def _change(self, bound: Mapping[int, Pod], now: int, cluster: str) -> dict[_Key, AddressInterval]:
        """Bring the intervals up to date; return those that are new, ended, or go on after all."""
        expected = {(pod.uid, ip): (index, pod) for index, pod in bound.items() for ip in pod.ips}
        changed = {
            key: self._ended(interval, now)
            for key, interval in self._intervals.items()
            if interval.last is None and key not in expected
        }
        for key, (index, pod) in expected.items():
            self._index[key] = index
            one = self._intervals.get(key)
            if one is None:
                changed[key] = self._started(key[1], pod, index, now, cluster)
            elif one.last is not None or not one.labels.items() <= pod.labels.items():
                changed[key] = _going_on(one, pod)
        self._intervals |= changed
        self._index = {key: self._index[key] for key in expected}
        return changed

    def _expire(self, now: int) -> dict[bytes, bytes | None]:
        """Forget the intervals that ended long ago; return the records that delete them from the topic."""
        expired = [
            key
            for key, interval in self._intervals.items()
            if interval.last is not None and interval.last < now - INTERVAL_RETENTION_NS
        ]
        records: dict[bytes, bytes | None] = {self._intervals.pop(key).key: None for key in expired}
        ended = [(interval.last, key) for key, interval in self._intervals.items() if interval.last is not None]
        for _, key in sorted(ended)[: max(0, len(ended) - _MAX_ENDED)]:
            del self._intervals[key]
        return records

    def _started(self, ip: str, pod: Pod, index: int, now: int, cluster: str) -> AddressInterval:
        owner = OwnerRef(pod.owner.kind, pod.owner.name, pod.owner.uid) if pod.owner else None
        appeared = self._clock.appeared(index)
        if appeared is not None:
            first, start = appeared
        else:
            first, start = pod.acknowledged_ns, min(pod.started_ns + _SECOND, now) if pod.started_ns else now
        return AddressInterval(
            cluster=cluster, node=self._node, ip=ip, uid=pod.uid, namespace=pod.namespace, pod=pod.name,
            first=first, start=max(first, start), labels=dict(pod.labels), owner=owner, ahead=self._ahead_ns or 0,
        )  # fmt: skip

    def _ended(self, interval: AddressInterval, now: int) -> AddressInterval:
        disappeared = self._clock.disappeared(self._index.get((interval.uid, interval.ip), -1))
        confirmed = self._confirmed_ns if self._confirmed_ns <= now else 0  # the clock was set back since
        end, last = disappeared if disappeared is not None else (confirmed, now)
        return msgspec.structs.replace(interval, end=max(end, interval.start), last=max(last, interval.start))

    def _save(self, now: int, *, changed: bool, at_once: bool = False) -> None:
        """Write the file if intervals changed; otherwise, now and then, only its modification time.

        A disk that takes nothing is reported: it must keep neither policy from the kernel nor intervals from Kafka."""
        # A little early is as good: the wait between two calls may be shorter than a second by the clock.
        is_recent = 0 <= now - self._saved_ns <= _TOUCH_NS * 9 // 10  # negative: the clock was set back
        if is_recent and not (changed or at_once or self.problem):
            return
        try:
            self._write(whole=changed or bool(self.problem))
        except OSError as error:
            if self.problem is None:
                log.error("the address intervals cannot be stored: after a restart, pods that ended meanwhile end late",
                          file=str(self._path), error=str(error))  # fmt: skip
            self.problem = f"the address intervals cannot be stored in {self._path} ({error.strerror})"
            return
        self._saved_ns, self.problem = now, None

    def _write(self, *, whole: bool) -> None:
        if whole:
            replace_state(self._path, msgspec.json.encode(list(self._intervals.values())), self._confirmed_ns)
        elif self._path.exists():
            os.utime(self._path, ns=(self._confirmed_ns, self._confirmed_ns))


def _by_other_clock(interval: AddressInterval, ahead: int, *, was_measured: bool) -> AddressInterval:
    """Return an interval with the times of a clock that is ahead by another amount; with the same times if it was not
    known yet how wrong the clock was."""
    step = ahead - interval.ahead if was_measured and interval.last is None else 0
    first, start = max(0, interval.first + step), max(0, interval.start + step)
    is_other = step or not was_measured
    return msgspec.structs.replace(interval, first=first, start=start, ahead=ahead) if is_other else interval


def _going_on(interval: AddressInterval, pod: Pod) -> AddressInterval:
    """Return the interval without an end, and without labels that have changed: its labels are true all the time."""
    labels = {key: value for key, value in interval.labels.items() if pod.labels.get(key) == value}
    return msgspec.structs.replace(interval, end=None, last=None, labels=labels)
