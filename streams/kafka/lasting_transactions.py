"""Looks, once, for transactions that do not end: at all partitions of some topics, and at all groups of a prefix."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
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
from streams.kafka.topic_ids import TopicIds

log = structlog.get_logger("kubeweir.streams")

_BETWEEN_S: Final = 3.0
"""A transaction that is committed at once is not there at the second look any more."""
_BETWEEN_SOON_S: Final = 1.0
"""The same for a command whose user waits for something else."""
_GROUP_S: Final = 3.0
_MAX_GROUPS: Final = 100


@dataclass(frozen=True, slots=True)
class Lasting:
    """What was found, and how much was looked at."""

    transactions: Sequence[OpenTransaction]
    topics: int
    groups: int
    groups_left_out: int


def lasting_transactions(connection: Connection, topics: Collection[str], prefix: str) -> Lasting:
    """Look twice, and return what both looks have found. Raises ReadError."""
    admin, committed = admin_client(connection), CommittedOffsets(connection, _GROUP_S)
    try:
        there = admin.list_topics(timeout=CALL_TIMEOUT_S).topics
        own = [name for name in topics if name in there]
        places = [(name, partition) for name in own for partition in there[name].partitions]
        groups = group_names(connection, prefix)
        chosen = groups[:_MAX_GROUPS]
        first, blocked = _open_at(admin, places), _blocked(committed, chosen, places)
        if first or blocked:
            time.sleep(_BETWEEN_S)
        found = _still_open(admin, first)
        found += [
            OpenTransaction(OFFSETS_TOPIC, None, None, time.time(), is_exact=False, group=group)
            for group in _blocked(committed, blocked, places)
        ]
        transactions = [known(connection, one.group or reader_group(one.topic), one, admin) for one in found]
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"Kafka cannot be asked for open transactions: {error_text(error)}") from error
    finally:
        committed.keep(())
    return Lasting(transactions, len(own), len(chosen), len(groups) - len(chosen))


def unreadable_yet(connection: Connection, topic: str) -> list[str]:
    """Return behind which transactions readers of a topic get nothing, in words. Empty also if that cannot be asked."""
    admin = admin_client(connection)
    try:
        first = _open_at(admin, TopicIds().look(admin, [topic]))
        if first:
            time.sleep(_BETWEEN_SOON_S)
        found = _still_open(admin, first)
    except (KafkaException, TimeoutError) as error:
        log.debug("open transactions cannot be looked for", error=str(error))
        return []
    servers, reader = connection["bootstrap.servers"], reader_group(topic)
    return [known(connection, reader, one).in_words(servers, time.time()) for one in found]


def _open_at(admin: AdminClient, places: Sequence[TopicAndPartition]) -> dict[TopicAndPartition, int]:
    """Return the last stable offsets that are not the end of their partition."""
    stable, ends = stable_and_last_offsets(admin, places)
    return {place: offset for place, offset in stable.items() if offset < ends[place]}


def _still_open(admin: AdminClient, first: Mapping[TopicAndPartition, int]) -> list[OpenTransaction]:
    """Return the transactions that a look has found and that have not ended since."""
    return [
        OpenTransaction(*place, offset, time.time(), is_exact=False)
        for place, offset in _open_at(admin, list(first)).items()
        if first[place] == offset
    ]


def _blocked(committed: CommittedOffsets, groups: Sequence[str], places: Sequence[TopicAndPartition]) -> list[str]:
    """Return the groups whose offsets are held back."""
    return [group for group in groups if _is_blocked(committed, group, places)]


def _is_blocked(committed: CommittedOffsets, group: str, places: Sequence[TopicAndPartition]) -> bool:
    try:
        return committed_or_blocked(committed, group, places)[1]
    except KafkaException:
        return False  # this user has no right on the group, so that its offsets cannot be asked for
