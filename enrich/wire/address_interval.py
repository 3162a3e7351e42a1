"""The time for which a pod had an address, as the probe of its node publishes it to the topic ``<prefix>.endpoints``.

The topic is compacted. The last record of a key is the whole interval, so that a worker that starts learns which pod
had which address when, even if the API server no longer has the pod. A record without a value deletes the interval.
"""

from __future__ import annotations

import functools
import socket
import sys
from typing import Final, NamedTuple

import msgspec

from enrich.model import Labels, Owner, Pod
from enrich.wire.bounds import (
    Cluster,
    Kind,
    LabelKey,
    LabelValue,
    Namespace,
    Nanoseconds,
    Node,
    ObjectName,
    Offset,
    Uid,
)
from enrich.wire.clock_skew import MAX_CORRECTED_NS

VERSION: Final = 1
INTERVAL_RETENTION_NS: Final = 25 * 3600 * 1_000_000_000
"""How long an interval stays in the topic after its end: an hour longer than the raw topic keeps a batch."""

_TIMES_OF_AN_OPEN_END: Final = 3
"""``first``, ``start``, and one of ``end`` and ``last`` without the other."""
_MAX_SHARED: Final = 100_000
"""Distinct label sets, and distinct owners, that are shared between pods."""


class AddressIntervalError(ValueError):
    """The bytes are not an address interval, or not its key; the message says why."""


class OwnerRef(msgspec.Struct, frozen=True):
    """The controller of the pod."""

    kind: Kind
    name: ObjectName
    uid: Uid = ""


class AddressInterval(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One pod and one of its addresses. All times are nanoseconds of the node's wall clock."""

    v: int = VERSION
    cluster: Cluster
    node: Node
    ip: str
    uid: Uid
    namespace: Namespace
    pod: ObjectName
    first: Nanoseconds
    """The pod did not have the address before."""
    start: Nanoseconds
    """The pod had the address from here on. It differs from ``first`` if the probe started after the pod."""
    end: Nanoseconds | None = None
    """The pod had the address until here; None: it still has it."""
    last: Nanoseconds | None = None
    """The pod did not have the address after this; None: it still has it."""
    labels: dict[LabelKey, LabelValue] = {}
    """The labels that the pod had all the time."""
    owner: OwnerRef | None = None
    ahead: Offset = 0
    """By how much the node's clock was ahead of the brokers', if its times are to be corrected
    (:func:`enrich.wire.clock_skew.correction_ns`)."""

    def corrected(self) -> AddressInterval:
        """Return the interval by the brokers' clocks."""
        if self.clock:
            return self
        return msgspec.structs.replace(self, **{
            name: max(0, at - self.ahead)
            for name in ("first", "start", "end", "last") if (at := getattr(self, name)) is not None
        })  # fmt: skip

    @property
    def clock(self) -> str:
        """The node by whose clock the times are measured, empty if they are corrected."""
        return "" if 0 < abs(self.ahead) <= MAX_CORRECTED_NS else self.node

    @property
    def key(self) -> bytes:
        """The Kafka key. An interval is one record, which is replaced when it ends."""
        return f"{self.cluster}/{self.node}/{self.ip}/{self.uid}".encode()

    def as_pod(self) -> Pod:
        """Make the pod, for a reader that knows it only from here. Pods with equal labels or owners share them."""
        owner = _shared_owner(self.owner.kind, self.owner.name, self.owner.uid) if self.owner else None
        labels = _shared_labels(tuple(self.labels.items()))
        return Pod(
            sys.intern(self.namespace), self.pod, self.uid, labels, (self.ip,), sys.intern(self.node), owner=owner
        )


@functools.lru_cache(_MAX_SHARED)
def _shared_labels(labels: tuple[tuple[str, str], ...]) -> Labels:
    return {sys.intern(key): sys.intern(value) for key, value in labels}


@functools.lru_cache(_MAX_SHARED)
def _shared_owner(kind: str, name: str, uid: str) -> Owner:
    return Owner(kind, name, uid)


_decode = msgspec.json.Decoder(AddressInterval).decode


def encode_interval(interval: AddressInterval) -> bytes:
    """Encode an interval as a Kafka value."""
    return msgspec.json.encode(interval)


def decode_interval(value: bytes, key: bytes) -> AddressInterval:
    """Decode the value of the record with a key. Raises :class:`AddressIntervalError`."""
    try:
        interval = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AddressIntervalError(str(error)) from error
    if interval.v != VERSION:
        raise AddressIntervalError(f"version {interval.v}, but this reader knows only {VERSION}")
    _check(interval)
    if interval.key != key:
        raise AddressIntervalError(f"the key {key[:200]!r} is not that of the interval, {interval.key!r}")
    return interval


def _check(interval: AddressInterval) -> None:
    if not is_address(interval.ip):
        raise AddressIntervalError(f"{interval.ip!r} is not an IP address")
    times = [time for time in (interval.first, interval.start, interval.end, interval.last) if time is not None]
    if len(times) == _TIMES_OF_AN_OPEN_END or times != sorted(times):
        raise AddressIntervalError("first, start, end and last must rise, and end and last must be given together")


def is_address(text: str) -> bool:
    """Return whether the text is an IPv4 or IPv6 address, without a zone."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


class AddressIntervalKey(NamedTuple):
    """The parts of a record's key, ``cluster/node/ip/uid``."""

    cluster: str
    node: str
    ip: str
    uid: str


def decode_interval_key(key: bytes) -> AddressIntervalKey:
    """Decode a key. Raises :class:`AddressIntervalError`."""
    parts = key.decode(errors="replace").rsplit("/", 3)
    if len(parts) != 4 or not is_address(parts[2]):
        raise AddressIntervalError(f"{key!r} is not the key of an address interval")
    return AddressIntervalKey(*parts)
