"""Since when and until when the node's pods have their addresses: what workers name remote ends by.

A pod's hold of an address begins when its interface appears and ends when that goes. The kernel tells both at once, but
not when they were: only that they came after nothing was to be told yet, and before they were read. So each has two
times, a moment apart; further where the probe was held up, and where it was not there: the pod's own start, or the last
time that the pod was seen. Between the two nobody is named. What
was told is written down beside the ledger, so that the next probe ends what went while there was none, and begins
nothing anew. Each hold is told once a day, for the topic forgets what is a week old, and taken back a day after it
ended. Knows no Kafka: ``tell`` is :class:`probe.export.publisher.AddressIntervalPublisher`.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from enrich.model import Pod
from enrich.wire.address_interval import INTERVAL_RETENTION_NS, AddressInterval, OwnerRef, encode_interval

log = structlog.get_logger("kubeweir.probe")

_SECOND: Final = 1_000_000_000
_AGAIN_NS: Final = 24 * 3600 * _SECOND
_CONFIRM_S: Final = 5.0
_NEWLINK, _DELLINK = 16, 17
_IS_NEW: Final = 0xFFFFFFFF
"""``ifi_change`` of an interface that was made, or came from another namespace; any other message is about a change."""
_MOST_LINKS: Final = 10_000

Changes = Mapping[bytes, bytes | None]
"""Records for the topic by key; None: a tombstone."""
_Key = tuple[str, str]
_read = msgspec.json.Decoder(list[AddressInterval]).decode


class AddressIntervals:
    """The holds of this node's pods."""

    def __init__(
        self, node: str, path: Path, tell: Callable[[Changes], None], now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """``path``: the file that lives as long as the pins."""
        self._node, self._path, self._tell, self._now_ns = node, path, tell, now_ns
        self._cluster: str | None = None
        self._bound: Mapping[int, Pod] | None = None
        self._held: dict[_Key, AddressInterval] = {}
        self._index: dict[_Key, int] = {}
        self._came: dict[int, tuple[int, int]] = {}
        self._went: dict[int, tuple[int, int]] = {}
        self._confirmed = self._seen = self._told = self._saved = 0
        self._lock = threading.Lock()

    def begin(self, cluster: str) -> None:
        """Take up what the last probe left; before that nothing is told."""
        with self._lock:
            try:
                left, self._confirmed = _read(self._path.read_bytes()), self._path.stat().st_mtime_ns
            except FileNotFoundError:
                left = []
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                left = []
                log.error("the last probe's holds cannot be read; they stay as they are in the topic", error=str(error))
            self._held = {(hold.uid, hold.ip): hold for hold in left if hold.cluster == cluster}
            self._cluster = cluster
            bound, seen = self._bound, self._seen
        if bound is not None:
            self.bound(bound, seen)

    def links(self, message: bytes, since_ns: int) -> None:
        """What netlink says of interfaces that came and went (RTM_NEWLINK, RTM_DELLINK), all after ``since_ns``."""
        between = since_ns, self._now_ns()
        for kind, index, changed in _links(message):
            if kind == _DELLINK:
                self._went[index] = between
            elif changed == _IS_NEW:
                self._came.setdefault(index, between)
        for known in (self._came, self._went):
            while len(known) > _MOST_LINKS:
                del known[next(iter(known))]

    def came_ns(self, index: int) -> int:
        """Before which moment an interface had not come; 0: it was there before anybody watched."""
        return self._came.get(index, (0, 0))[0]

    def bound(self, bound: Mapping[int, Pod], seen_ns: int) -> None:
        """The interfaces that are bound to pods now; they were there at ``seen_ns``."""
        with self._lock:
            self._bound, self._seen = bound, seen_ns
            if self._cluster is None:
                return
            now = self._now_ns()
            wanted = {(pod.uid, ip): (index, pod) for index, pod in bound.items() for ip in pod.ips}
            changed = {key: self._ended(key, now) for key, hold in self._held.items()
                       if hold.last is None and key not in wanted}  # fmt: skip
            for key, (index, pod) in wanted.items():
                self._index[key] = index
                if key not in self._held:
                    changed[key] = self._begun(key[1], pod, index, now, self._cluster)
                elif self._held[key].last is not None:
                    changed[key] = msgspec.structs.replace(self._held[key], end=None, last=None)
            self._held |= changed
            over = [
                key
                for key, hold in self._held.items()
                if hold.last is not None and hold.last < now - INTERVAL_RETENTION_NS
            ]
            records: dict[bytes, bytes | None] = {self._held.pop(key).key: None for key in over}
            again = now - self._told > _AGAIN_NS
            told = self._held.values() if again else changed.values()
            records |= {hold.key: encode_interval(hold) for hold in told}
            self._told = now if again else self._told
            self._index = {key: self._index[key] for key in wanted}
            self._confirmed = max(self._confirmed, seen_ns)
            self._save(now, changed=bool(records))
        if records:
            self._tell(records)

    def _begun(self, ip: str, pod: Pod, index: int, now: int, cluster: str) -> AddressInterval:
        owner = OwnerRef(pod.owner.kind, pod.owner.name, pod.owner.uid) if pod.owner else None
        came = self._came.get(index)
        if came is not None:
            first, start = came
        else:
            first, start = pod.acknowledged_ns, min(pod.started_ns + _SECOND, now) if pod.started_ns else now
        return AddressInterval(
            cluster=cluster, node=self._node, ip=ip, uid=pod.uid, namespace=pod.namespace, pod=pod.name,
            first=first, start=max(first, start), labels=dict(pod.labels), owner=owner,
        )  # fmt: skip

    def _ended(self, key: _Key, now: int) -> AddressInterval:
        hold = self._held[key]
        went = self._went.get(self._index.get(key, -1))
        end, last = went if went is not None else (self._confirmed, now)
        return msgspec.structs.replace(hold, end=max(end, hold.start), last=max(last, hold.start))

    def _save(self, now: int, *, changed: bool) -> None:
        if changed:
            new = self._path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(list(self._held.values())))
        elif now - self._saved > _CONFIRM_S * _SECOND and self._path.exists():
            new = self._path
        else:
            return
        # The file's time is when the pods were seen last.
        os.utime(new, ns=(self._confirmed, self._confirmed))
        new.replace(self._path)
        self._saved = now


def _links(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, interface index and ``ifi_change`` of each message about a link (struct nlmsghdr, struct ifinfomsg)."""
    while len(message) >= 32:
        length, kind = struct.unpack_from("=IH", message)
        if length < 16:
            return
        if kind in (_NEWLINK, _DELLINK):
            index, _, changed = struct.unpack_from("=iII", message, 20)
            yield kind, index, changed
        message = message[(length + 3) & ~3 :]
