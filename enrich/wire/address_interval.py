"""A pod's hold of an address, as the probe of its node tells it on the topic ``<prefix>.endpoints``.

The topic is compacted: its last record a key is a pod's whole interval, so that a worker that starts knows who had
which address when, of pods too that are gone from the API. A record without a value ends the memory of it.
"""

from __future__ import annotations

import functools
import sys
from typing import Final, NamedTuple

import msgspec

from enrich.model import Labels, Owner, Pod

VERSION: Final = 1
INTERVAL_RETENTION_NS: Final = 25 * 3600 * 1_000_000_000
"""How long a hold stays in the topic after its end: as long as the raw topic keeps a batch, and some."""

_MOST: Final = 100_000
"""Distinct labels or owners that are shared."""


class AddressIntervalError(ValueError):
    """The bytes are no such record; the message says why."""


class OwnerRef(msgspec.Struct, frozen=True):
    """The pod's controller."""

    kind: str
    name: str
    uid: str = ""


class AddressInterval(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One pod and one of its addresses. Times are nanoseconds of the node's wall clock."""

    v: int = VERSION
    cluster: str
    node: str
    ip: str
    uid: str
    namespace: str
    pod: str
    first: int
    """It did not have the address before."""
    start: int
    """It has it from here on; with ``first`` what the probe saw, apart where the probe came later than the pod."""
    end: int | None = None
    """It had it up to here; None: it has it still."""
    last: int | None = None
    """It did not have it after this."""
    labels: dict[str, str] = {}
    owner: OwnerRef | None = None

    @property
    def key(self) -> bytes:
        """The record's key: a pod's interval is one record, told again when it ends."""
        return f"{self.cluster}/{self.node}/{self.ip}/{self.uid}".encode()

    def as_pod(self) -> Pod:
        """The pod, for a reader that knows it from here only. A Deployment's pods share what they have in common."""
        owner = _shared_owner(self.owner.kind, self.owner.name, self.owner.uid) if self.owner else None
        labels = _shared_labels(tuple(self.labels.items()))
        return Pod(
            sys.intern(self.namespace), self.pod, self.uid, labels, (self.ip,), sys.intern(self.node), owner=owner
        )


@functools.lru_cache(_MOST)
def _shared_labels(labels: tuple[tuple[str, str], ...]) -> Labels:
    return {sys.intern(key): sys.intern(value) for key, value in labels}


@functools.lru_cache(_MOST)
def _shared_owner(kind: str, name: str, uid: str) -> Owner:
    return Owner(kind, name, uid)


_decode = msgspec.json.Decoder(AddressInterval).decode


def encode_interval(hold: AddressInterval) -> bytes:
    """The Kafka value."""
    return msgspec.json.encode(hold)


def decode_interval(value: bytes) -> AddressInterval:
    """The interval in a Kafka value. Raises :class:`EndpointError`."""
    try:
        hold = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AddressIntervalError(str(error)) from error
    if hold.v != VERSION:
        raise AddressIntervalError(f"version {hold.v}, this reader takes {VERSION}")
    return hold


class AddressIntervalKey(NamedTuple):
    """What a record's key says."""

    cluster: str
    node: str
    ip: str
    uid: str


def decode_interval_key(key: bytes) -> AddressIntervalKey:
    """The parts of a key. Raises :class:`EndpointError`."""
    parts = key.decode(errors="replace").rsplit("/", 3)
    if len(parts) != 4:
        raise AddressIntervalError(f"{key!r} is no key of a hold")
    return AddressIntervalKey(*parts)
