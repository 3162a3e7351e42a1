"""Looks, once, for transactions that do not end: at all partitions of some topics, and at all groups of a prefix."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from enrich.diagnosis.transactions import OFFSETS_TOPIC, OpenTransaction
from streams.kafka.committed import CommittedOffsets
from streams.kafka.connection import CALL_TIMEOUT_S, Connection, ReadError, admin_client
from streams.kafka.consumer_groups import group_names
from streams.kafka.errors import error_text
from streams.kafka.offsets import stable_and_last_offsets
from streams.kafka.open_transactions import committed_or_blocked, known
from streams.kafka.reading import reader_group
from streams.kafka.records import TopicAndPartition

_BETWEEN_S: Final = 3.0
"""A transaction that is committed at once is not there at the second look any more."""
_GROUP_S: Final = 3.0
_MAX_GROUPS: Final = 100


@dataclass(frozen=True, slots=True)
class Lasting:
    """What was found, and how much was looked at."""

    transactions: Sequence[OpenTransaction]
    topics: int
    groups: int
    groups_left_out: int


@dataclass(frozen=True, slots=True)
class _Look:
    open: Mapping[TopicAndPartition, int]
    """Last stable offsets that are not the end of their partition."""
    groups: frozenset[str]
    """Whose offsets are held back."""


def lasting_transactions(connection: Connection, topics: Collection[str], prefix: str) -> Lasting:
    """Look twice, and return what both looks have found. Raises ReadError."""
    admin, committed = admin_client(connection), CommittedOffsets(connection, _GROUP_S)
    try:
        there = admin.list_topics(timeout=CALL_TIMEOUT_S).topics
        own = [name for name in topics if name in there]
        places = [(name, partition) for name in own for partition in there[name].partitions]
        groups = group_names(connection, prefix)
        found = _lasting(connection, admin, committed, places, groups[:_MAX_GROUPS])
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"Kafka cannot be asked for open transactions: {error_text(error)}") from error
    finally:
        committed.keep(())
    return Lasting(found, len(own), min(len(groups), _MAX_GROUPS), max(0, len(groups) - _MAX_GROUPS))


def _lasting(
    connection: Connection,
    admin: AdminClient,
    committed: CommittedOffsets,
    places: Sequence[TopicAndPartition],
    groups: Sequence[str],
) -> list[OpenTransaction]:
    first = _look(admin, committed, places, places, groups)
    if not first.open and not first.groups:
        return []
    time.sleep(_BETWEEN_S)
    second = _look(admin, committed, list(first.open), places, sorted(first.groups))
    now = time.time()
    found = [
        OpenTransaction(topic, partition, offset, now, is_exact=False)
        for (topic, partition), offset in first.open.items()
        if second.open.get((topic, partition)) == offset
    ]
    found += [
        OpenTransaction(OFFSETS_TOPIC, None, None, now, is_exact=False, group=group) for group in sorted(second.groups)
    ]
    return [known(connection, one.group or reader_group(one.topic), one, admin) for one in found]


def _look(
    admin: AdminClient,
    committed: CommittedOffsets,
    places: Sequence[TopicAndPartition],
    read: Sequence[TopicAndPartition],
    groups: Sequence[str],
) -> _Look:
    stable, ends = stable_and_last_offsets(admin, places)
    blocked = frozenset(group for group in groups if _is_blocked(committed, group, read))
    return _Look({place: offset for place, offset in stable.items() if offset < ends[place]}, blocked)


def _is_blocked(committed: CommittedOffsets, group: str, places: Sequence[TopicAndPartition]) -> bool:
    try:
        return committed_or_blocked(committed, group, places)[1]
    except KafkaException:
        return False  # this user has no right on the group, which is no transaction
