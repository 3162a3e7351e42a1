"""Asks what groups have committed, by clients that are members of no group.

The administration client has a call for it, which ends the whole process: librdkafka's follows a null pointer when a
broker answers that it does not coordinate the group. Brokers do so while they start, stop or take over from another.
So each group is asked by a consumer of its own that subscribes to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from enrich.runtime.renewed_client import RenewedClient
from streams.kafka.connection import Connection, make_consumer
from streams.kafka.hanging_calls import close_consumer
from streams.kafka.records import TopicAndPartition


class CommittedOffsets:
    """Asks for committed offsets. One thread may call its methods."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._consumers: dict[tuple[str, bool], RenewedClient[Consumer]] = {}
        self._unstable: set[str] = set()
        """Groups that were asked for unstable offsets since :meth:`keep` was called."""

    def of(
        self, group: str, places: Sequence[TopicAndPartition], *, stable: bool = True
    ) -> dict[TopicAndPartition, int]:
        """Return what the group has committed of these partitions; those without an offset are left out.

        With ``stable``, it waits for transactions that have written offsets of the group, and are not committed or
        aborted yet, as members of the group do. Raises KafkaException."""
        if not places:
            return {}
        key = (group, stable)
        if not stable:
            self._unstable.add(group)
        if key not in self._consumers:
            # This setting also decides whether librdkafka asks for stable offsets.
            level = {"isolation.level": "read_committed" if stable else "read_uncommitted"}
            self._consumers[key] = RenewedClient(lambda: make_consumer(self._connection, group, level))
        consumer = self._consumers[key]
        found = consumer.get().committed([TopicPartition(*place) for place in places], self._timeout_s)
        consumer.answered()
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        return {(one.topic, one.partition): one.offset for one in found if one.offset >= 0}

    def keep(self, groups: Collection[str]) -> None:
        """Disconnect from all groups but these, and from each that was not asked for unstable offsets since the last
        call, the second client that asks for them: after an outage, every group has one."""
        kept = {(group, True) for group in groups} | {(group, False) for group in self._unstable & set(groups)}
        self._unstable.clear()
        for key in self._consumers.keys() - kept:
            _close(self._consumers.pop(key).give_up())

    def unanswered(self) -> None:
        """Note that Kafka has not answered, maybe some other client: replace the consumers that are connected."""
        for consumer in self._consumers.values():
            _close(consumer.unanswered())


def _close(consumer: Consumer | None) -> None:
    if consumer is not None:
        close_consumer(consumer)
