"""Finds transactions that have been open for long where a role reads.

Theory of operation. The lag monitor (:mod:`streams.kafka.lag`) looks every few seconds, and notes

- each partition whose last stable offset is before its end: say 812 of 852. Readers of committed records get nothing
  from 812 on. If the next look finds 812 again, it is the same transaction.
- each group whose offsets Kafka gives a client that takes unstable ones, and does not give one that does not.

What is not noted again is over, unless that look has failed, because a broker was slow for example. What has been noted
for ``WEIR_STALL`` seconds is on /readyz, and once in the log: no transaction of ours lasts longer while its worker is
alive. The time of the first record behind the last stable offset says since when. Where a group's offsets are, only a
user who may see Kafka's topic of offsets can tell.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from enrich.diagnosis.transactions import OFFSETS_TOPIC, OpenTransaction, partition_of_group
from streams.kafka.committed import CommittedOffsets
from streams.kafka.connection import Connection, make_consumer
from streams.kafka.hanging_calls import close_consumer
from streams.kafka.offsets import stable_and_last_offsets
from streams.kafka.records import TopicAndPartition
from streams.kafka.topic_ids import TopicIds

log = structlog.get_logger("kubeweir.streams")

_TIMEOUT_S: Final = 5.0
_LOOKS_FAIL: Final = 5
"""Times WEIR_STALL in which looks at a reader may fail until what was found there before is not believed any more."""
_Key = tuple[str, int, int]
"""Topic, partition and last stable offset; of a group, its name and -1."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """What may wait for a transaction without being a member of a measured group, such as a loop that begins."""

    fails: Callable[[], bool]
    """Return whether it does not get on. Only then it is looked at."""
    group: str
    """Its group, or another name by which it may read."""
    reads: Sequence[str] = ()
    """Topics whose committed records it reads."""
    committed: Sequence[str] = ()
    """Topics of which it asks for the group's offsets."""
    is_optional: bool = False
    """Whether the role does its work without it."""


@dataclass(slots=True)
class _Found:
    transaction: OpenTransaction
    found_at: float
    noted_at: float
    """When the first and the last look began that noted it."""
    reader: str
    """A group on which the user has a right, which librdkafka asks for."""
    is_optional: bool
    is_known: bool = False
    """Whether it was found out what can be."""
    is_logged: bool = False


class OpenTransactions:
    """What was found. One thread notes it; any thread may ask."""

    def __init__(
        self,
        connection: Connection,
        limit_s: float,
        committed: CommittedOffsets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``limit_s``: a transaction that is younger is nothing to speak of."""
        self._connection, self._limit_s, self._committed, self._clock = connection, limit_s, committed, clock
        self._began_at = clock()
        """When the last look began: it may take longer than the limit."""
        self._found: dict[_Key, _Found] = {}
        self._noted: set[_Key] = set()
        self._seen: set[TopicAndPartition] = set()
        self._failed: set[str] = set()
        """Of this look: what was found, partitions that were looked at, and readers at whom the look failed."""
        self.suspects: list[Suspect] = []

    def begin(self) -> None:
        """Begin a look."""
        self._began_at = self._clock()
        for noted in (self._noted, self._seen, self._failed):
            noted.clear()

    def note_offsets(
        self,
        reader: str,
        stable: Mapping[TopicAndPartition, int],
        ends: Mapping[TopicAndPartition, int],
        *,
        is_optional: bool = False,
    ) -> None:
        """Note the last stable offsets and the ends of partitions."""
        self._seen.update(stable)
        for (topic, partition), offset in stable.items():
            if offset < ends[topic, partition]:
                found = OpenTransaction(topic, partition, offset, time.time(), is_exact=False)
                self._note((topic, partition, offset), found, reader, is_optional=is_optional)

    def note_failure(self, reader: str) -> None:
        """Note that a look at a reader has failed, so that what was found before may go on."""
        self._failed.add(reader)

    def committed_of(
        self, group: str, places: Sequence[TopicAndPartition], *, is_optional: bool = False
    ) -> Mapping[TopicAndPartition, int]:
        """Return what a group has committed, without what a transaction holds back, and note that. Raises
        KafkaException."""
        found, is_blocked = committed_or_blocked(self._committed, group, places)
        if not is_blocked:
            return found
        transaction = OpenTransaction(OFFSETS_TOPIC, None, None, time.time(), is_exact=False, group=group)
        self._note((group, -1, -1), transaction, group, is_optional=is_optional)
        return found

    def _note(self, key: _Key, transaction: OpenTransaction, reader: str, *, is_optional: bool) -> None:
        self._noted.add(key)
        found = self._found.setdefault(key, _Found(transaction, self._began_at, self._began_at, reader, is_optional))
        found.noted_at = self._began_at
        found.is_optional = found.is_optional and is_optional

    def look_at_suspects(self, admin: AdminClient, note_answer: Callable[[], object]) -> None:
        """Note transactions for which the suspects that fail may wait. ``note_answer`` is called when Kafka has
        answered about one."""
        for one in self.suspects:
            try:
                if one.fails():
                    read, committed = (TopicIds().look(admin, topics) for topics in (one.reads, one.committed))
                    self.note_offsets(one.group, *stable_and_last_offsets(admin, read), is_optional=one.is_optional)
                    if (one.group, -1, -1) not in self._noted:
                        self.committed_of(one.group, committed, is_optional=one.is_optional)
                    note_answer()
            except (KafkaException, TimeoutError):  # other measures report it
                self.note_failure(one.group)

    def settle(self, admin: AdminClient) -> None:
        """End a look: forget what is over, and find out more about what lasts."""
        for key in [key for key in self._found.keys() - self._noted if not self._may_last(key)]:
            if (over := self._found.pop(key)).is_logged:
                log.info("a transaction that readers waited for has ended", **_names(over.transaction))
        for found in self._lasting():
            if not found.is_known:
                found.transaction = known(self._connection, found.reader, found.transaction, admin)
                # The first transaction in a partition of offsets may be another group's, and end before ours.
                found.is_known = found.transaction.offset is not None
            if not found.is_logged:
                log.error("readers wait for a transaction that has not ended", **_names(found.transaction),
                          error=self._in_words(found))  # fmt: skip
                found.is_logged = True

    def _may_last(self, key: _Key) -> bool:
        found = self._found[key]
        is_recent = self._began_at - found.noted_at < _LOOKS_FAIL * self._limit_s
        return is_recent and found.reader in self._failed and key[:2] not in self._seen

    def problems(self, *, optional: bool = False) -> list[str]:
        """Return who has waited for long for which transactions, in words. ``optional``: only what the role does its
        work without, instead of all else."""
        return [self._in_words(one) for one in self._lasting() if one.is_logged and one.is_optional == optional]

    def blocks(self, waits_for: Callable[[str], bool]) -> bool:
        """Return whether one that lasts holds a topic or a group back that something waits for."""
        return any(waits_for(one.transaction.group or one.transaction.topic) for one in self._lasting())

    def blocks_group(self, group: str) -> bool:
        """Return whether one that lasts holds a group's offsets back."""
        return any(one.transaction.group == group for one in self._lasting())

    def _lasting(self) -> list[_Found]:
        # Not until now: in an outage there is no look, and no transaction can end.
        return [one for one in tuple(self._found.values()) if one.noted_at - one.found_at >= self._limit_s]

    def _in_words(self, found: _Found) -> str:
        return found.transaction.in_words(self._connection["bootstrap.servers"], time.time())


def committed_or_blocked(
    committed: CommittedOffsets, group: str, places: Sequence[TopicAndPartition]
) -> tuple[dict[TopicAndPartition, int], bool]:
    """Return what a group has committed, without what a transaction has written that is open; and whether there is such
    a transaction. Raises KafkaException."""
    try:
        return committed.of(group, places), False
    except KafkaException as error:
        # librdkafka asks for offsets that are held back until its time is over.
        if error.args[0].code() not in {KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT}:
            raise
    return committed.of(group, places, stable=False), True


def known(
    connection: Connection, reader: str, transaction: OpenTransaction, admin: AdminClient | None = None
) -> OpenTransaction:
    """Return what can be found out about a transaction. What this user may not ask stays unknown.

    ``reader``: a group on which the user has a right. ``admin``: needed if the transaction holds a group's offsets."""
    try:
        if transaction.group and admin is not None:
            transaction = _located(admin, transaction)
        if transaction.offset is not None:
            return _dated(connection, reader, transaction)
    except (KafkaException, TimeoutError) as error:
        log.debug("no more is known about a transaction", error=str(error))
    # Another group's transaction may begin where ours only seems to.
    return dataclasses.replace(transaction, offset=None) if transaction.group else transaction


def _located(admin: AdminClient, transaction: OpenTransaction) -> OpenTransaction:
    topic = admin.list_topics(OFFSETS_TOPIC, timeout=_TIMEOUT_S).topics.get(OFFSETS_TOPIC)
    if topic is None or topic.error is not None or not topic.partitions:
        return transaction
    place = (OFFSETS_TOPIC, partition_of_group(transaction.group, len(topic.partitions)))
    stable, ends = stable_and_last_offsets(admin, [place])
    offset = stable[place] if stable[place] < ends[place] else None
    return dataclasses.replace(transaction, partition=place[1], offset=offset)


def _dated(connection: Connection, reader: str, transaction: OpenTransaction) -> OpenTransaction:
    """Take the time of the transaction's first record. A producer chooses it: one of the future is not believed.

    The first transaction that is open in a partition of offsets may be another group's: then its place is of no use."""
    unknown = dataclasses.replace(transaction, offset=None) if transaction.group else transaction
    consumer = make_consumer(connection, reader, {"isolation.level": "read_uncommitted", "fetch.wait.max.ms": 100})
    try:
        consumer.assign([TopicPartition(transaction.topic, transaction.partition, transaction.offset)])
        message = consumer.poll(_TIMEOUT_S)
        if message is None or message.error() is not None or message.offset() != transaction.offset:
            return unknown
        if transaction.group and not _is_of(transaction.group, message.key()):
            return unknown
        since = message.timestamp()[1] / 1000
        if not 0 < since <= transaction.since:
            return transaction
        return dataclasses.replace(transaction, since=since, is_exact=True)
    finally:
        close_consumer(consumer)


def _is_of(group: str, key: bytes | None) -> bool:
    """Return whether a record of the topic of offsets is a group's: its key has a version, then the group's name."""
    name = group.encode()
    return (key or b"")[2:].startswith(len(name).to_bytes(2, "big") + name)


def _names(transaction: OpenTransaction) -> dict[str, object]:
    found = dataclasses.asdict(transaction)
    return {name: found[name] for name in ("topic", "partition", "offset", "group") if found[name] not in (None, "")}
