"""What the counting half tells the keeping half: how much more of each group there is, by second.

Records of one group come from many partitions of the flows; their deltas all go to one partition of
``<prefix>.alerts.deltas``, chosen by rule and group, and the state of the group lives in the same number of
``<prefix>.alerts.state``. One Kafka record has many deltas: what a record costs is paid once.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from streams.alerts.model import Rule

VERSION: Final = 1
_MOST: Final = 400_000
"""Bytes of a record, about; a broker takes a million by default."""


class DeltaError(ValueError):
    """These bytes are no deltas of a version that is known."""


class Delta(msgspec.Struct, array_like=True):
    """More of one group."""

    rule: str
    version: str
    """See :func:`version_of`."""
    group: list[str]
    amounts: dict[int, int]
    """By second since the epoch."""
    distinct: dict[int, int] = {}
    """Hash of a value to the last second in which it was seen; of rules that count different values."""
    examples: list[msgspec.Raw] = []
    """Records as JSON, cut down."""
    policies: list[str] = []
    """That the group's records name; of rules about changes."""
    namespace: str = ""
    """Of the pod whose policy was judged; likewise."""


class _Deltas(msgspec.Struct):
    v: int
    deltas: list[Delta]


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Deltas)


def version_of(rule: Rule) -> str:
    """Of what a rule counts: counts of another version are none of its."""
    above = rule.above
    # What is known of a first time holds whatever else is looked at from now on.
    about = () if rule.first is not None else (rule.match, rule.excluded)
    counted = (rule.kind, rule.of, rule.fields, about, above and (above.count, above.distinct))
    return hashlib.blake2b(msgspec.json.encode(counted), digest_size=4).hexdigest()


def fingerprint(rule: str, group: Sequence[str]) -> str:
    """Names an alert: the same rule and group have the same one, always."""
    return hashlib.blake2b("\0".join((rule, *group)).encode(), digest_size=8).hexdigest()


def partition_of(rule: str, group: Sequence[str], partitions: int) -> int:
    """Where a group is counted and kept."""
    return int(fingerprint(rule, group), 16) % partitions


def hash_of(value: str) -> int:
    """Of a value of which only is asked whether it was there before."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=7).digest(), "little")


def encode(deltas: Iterable[Delta], partitions: int) -> Iterator[tuple[int, bytes]]:
    """Partitions and values of the Kafka records that carry these."""
    by_partition: defaultdict[int, list[Delta]] = defaultdict(list)
    for delta in deltas:
        by_partition[partition_of(delta.rule, delta.group, partitions)].append(delta)
    for partition, members in sorted(by_partition.items()):
        for part in _parts(members):
            yield partition, b'{"v":%d,"deltas":[%b]}' % (VERSION, b",".join(part))


def _parts(members: Iterable[Delta]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for delta in members:
        made = _ENCODER.encode(delta)
        if part and size + len(made) > _MOST:
            yield part
            part, size = [], 0
        part.append(made)
        size += len(made)
    if part:
        yield part


def decode(value: bytes) -> list[Delta]:
    """Raises DeltaError."""
    try:
        found = _DECODER.decode(value)
    except msgspec.DecodeError as error:
        raise DeltaError(str(error)) from error
    if found.v != VERSION:
        raise DeltaError(f"version {found.v}, this is {VERSION}")
    return found.deltas
