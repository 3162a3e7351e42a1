"""The time for which a pod had an address, as the probe of its node publishes it to the topic ``<prefix>.endpoints``.

The topic is compacted. The last record of a key is the whole interval, so that a worker that starts learns which pod
had which address when, even if the API server no longer has the pod. A record without a value deletes the interval.
"""

from __future__ import annotations

import functools
import sys
from typing import Final, NamedTuple

import msgspec

from enrich.model import Labels, Owner, Pod

VERSION: Final = 1
INTERVAL_RETENTION_NS: Final = 25 * 3600 * 1_000_000_000
"""How long an interval stays in the topic after its end: an hour longer than the raw topic keeps a batch."""

_MAX_SHARED: Final = 100_000
"""Distinct label sets, and distinct owners, that are shared between pods."""


class AddressIntervalError(ValueError):
    """The bytes are not an address interval, or not its key; the message says why."""


class OwnerRef(msgspec.Struct, frozen=True):
    """The controller of the pod."""

    kind: str
    name: str
    uid: str = ""


class AddressInterval(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One pod and one of its addresses. All times are nanoseconds of the node's wall clock."""

    v: int = VERSION
    cluster: str
    node: str
    ip: str
    uid: str
    namespace: str
    pod: str
    first: int
    """The pod did not have the address before."""
    start: int
    """The pod had the address from here on. It differs from ``first`` if the probe started after the pod."""
    end: int | None = None
    """The pod had the address until here; None: it still has it."""
    last: int | None = None
    """The pod did not have the address after this; None: it still has it."""
    labels: dict[str, str] = {}
    owner: OwnerRef | None = None

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


def decode_interval(value: bytes) -> AddressInterval:
    """Decode a Kafka value. Raises :class:`AddressIntervalError`."""
    try:
        interval = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AddressIntervalError(str(error)) from error
    if interval.v != VERSION:
        raise AddressIntervalError(f"version {interval.v}, but this reader knows only {VERSION}")
    return interval


class AddressIntervalKey(NamedTuple):
    """The parts of a record's key, ``cluster/node/ip/uid``."""

    cluster: str
    node: str
    ip: str
    uid: str


def decode_interval_key(key: bytes) -> AddressIntervalKey:
    """Decode a key. Raises :class:`AddressIntervalError`."""
    parts = key.decode(errors="replace").rsplit("/", 3)
    if len(parts) != 4:
        raise AddressIntervalError(f"{key!r} is not the key of an address interval")
    return AddressIntervalKey(*parts)
