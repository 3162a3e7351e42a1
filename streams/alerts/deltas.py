"""Deltas: what the count loop sends to the engine loop, a group's new counts by second.

Records of one group come from many partitions of the flows. All its deltas go to one partition of
``<prefix>.alerts.deltas``, chosen by a hash of rule and group, and its state lives in the partition of the same number
of ``<prefix>.alerts.state``. One Kafka record carries many deltas, so that the cost of a record is paid once.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from enrich.wire.whose import is_foreign
from streams.alerts.example import decode_example
from streams.alerts.model import AlertRule
from streams.kafka.records import Record

VERSION: Final = 1
_MAX_RECORD_BYTES: Final = 400_000
"""Approximate; a broker accepts a million by default (``message.max.bytes``)."""


MAX_VALUE_LENGTH: Final = 256
"""Characters of a group's value; longer values are cut."""
MAX_AMOUNT: Final = 1 << 40
"""The most that one delta adds in one second, so that no sum of deltas leaves 64 bits."""
Second = Annotated[int, Meta(ge=0, lt=1 << 40)]
Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
ValueHash = Annotated[int, Meta(ge=0, lt=1 << 56)]
GroupValue = Annotated[str, Meta(max_length=MAX_VALUE_LENGTH, pattern=r"\A[^\0]*\Z")]


class DeltaError(ValueError):
    """The bytes are not deltas of a version that this worker knows."""


class Delta(msgspec.Struct, array_like=True):
    """New counts of one group."""

    rule: str
    version: str
    """See :func:`version_of`."""
    group: list[GroupValue]
    amounts: Annotated[dict[Second, Amount], Meta(min_length=1)]
    """Second since the epoch to the amount counted in it."""
    distinct: dict[ValueHash, Second] = {}
    """Only for rules that count distinct values: hash of a value to the last second in which it occurred."""
    examples: list[msgspec.Raw] = []
    """Shortened records as JSON."""
    policies: list[str] = []
    """Only for after_change rules: the policies that the group's records name."""
    namespace: str = ""
    """Only for after_change rules: the namespace of the subject."""
    by_cluster: bool = False
    """Only for after_change rules: the deltas of all groups of a cluster go to one partition, because one change of a
    policy concerns many groups, and makes one alert."""


class _Deltas(msgspec.Struct):
    v: int
    deltas: list[Delta]


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Deltas)


def version_of(rule: AlertRule) -> str:
    """Hash the inputs that define what the rule counts. Deltas and state with another hash are ignored.

    A changed threshold or window keeps the version; a changed match, grouping or kind does not."""
    above = rule.above
    # Groups that a first rule has seen stay known when its match changes.
    selection = () if rule.first is not None else (rule.match, rule.excluded)
    # One alert for each change; up to 0.1.0 it was one for each group.
    kind = "after_change/2" if rule.after_change is not None else rule.kind
    inputs = (kind, rule.of, rule.fields, selection, above and (above.count, above.distinct))
    return hashlib.blake2b(msgspec.json.encode(inputs), digest_size=4).hexdigest()


def fingerprint(rule: str, group: Sequence[str]) -> str:
    """Return the stable id of a rule's group, and so of its alert: 16 hexadecimal digits."""
    return hashlib.blake2b("\0".join((rule, *group)).encode(), digest_size=8).hexdigest()


class OwnGroups:
    """The groups of one cluster, where several share the topics. The first field of each group is its cluster."""

    def __init__(self, cluster: str, count_foreign: Callable[[int], None]) -> None:
        """``cluster``: empty if every group is its own. ``count_foreign`` is called with how many deltas of others were
        skipped."""
        self.cluster, self._count_foreign = cluster, count_foreign

    def has(self, group: Sequence[str]) -> bool:
        """Return whether a group is of this cluster."""
        return not group or not is_foreign(group[0], self.cluster)

    def of_records(self, records: Sequence[Record]) -> list[Record]:
        """Return the records that may have deltas of this cluster, and count the others: the key is the cluster.

        Another cluster may run a version whose deltas cannot be decoded here."""
        own = [record for record in records if not is_foreign(record.key.decode(errors="replace"), self.cluster)]
        self._count_foreign(len(records) - len(own))
        return own

    def pick(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas of this cluster, and count the others."""
        own = [delta for delta in deltas if self.has(delta.group)]
        self._count_foreign(len(deltas) - len(own))
        return own


def partition_of(rule: str, group: Sequence[str], partitions: int) -> int:
    """Return the partition of the deltas and of the state of a group."""
    return int(fingerprint(rule, group), 16) % partitions


def value_hash(value: str) -> int:
    """Hash a value to 56 bits; distinct values are only compared, never shown."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=7).digest(), "little")


def encode(deltas: Iterable[Delta], partitions: int) -> Iterator[tuple[int, bytes]]:
    """Yield the partition and the value of each Kafka record that carries the deltas."""
    by_partition: defaultdict[int, list[Delta]] = defaultdict(list)
    for delta in deltas:
        home = delta.group[:1] if delta.by_cluster else delta.group
        by_partition[partition_of(delta.rule, home, partitions)].append(delta)
    for partition, members in sorted(by_partition.items()):
        for chunk in _chunks(members):
            yield partition, b'{"v":%d,"deltas":[%b]}' % (VERSION, b",".join(chunk))


def _chunks(members: Iterable[Delta]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for delta in members:
        encoded = _ENCODER.encode(delta)
        if chunk and size + len(encoded) > _MAX_RECORD_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(encoded)
        size += len(encoded)
    if chunk:
        yield chunk


def decode(value: bytes) -> list[Delta]:
    """Decode the value of one Kafka record. Raises DeltaError."""
    try:
        found = _DECODER.decode(value)
        for delta in found.deltas:
            for example in delta.examples:
                decode_example(bytes(example))
    except (ValueError, RecursionError) as error:
        raise DeltaError(str(error)) from error
    if found.v != VERSION:
        raise DeltaError(f"the deltas have version {found.v}, and this worker reads version {VERSION}")
    return found.deltas
