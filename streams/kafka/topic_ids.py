"""Notices that a topic was deleted and made again while it is read, and sends its readers back to its beginning.

Theory of operation. A consumer asks for offsets. Say it has read up to 1,000, and the topic is deleted and made again:
it asks the new topic for offset 1,000, and misses the first 1,000 records without a word. Its next commit makes this
last. So the id is compared that Kafka gives each topic. When it has changed,

1. each process that reads the topic by the group ends, and so leaves the group;
2. before it does, it waits until the group has no members, and sets the group's offsets of this topic to 0. Kafka takes
   offsets from outside only for a group without members;
3. it is restarted, and reads the new topic from its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from enrich.runtime.renewed_client import RenewedClient
from streams.kafka.connection import Connection, admin_client
from streams.kafka.consumer_groups import GroupCoordinators
from streams.kafka.errors import error_text
from streams.kafka.records import TopicAndPartition

log = structlog.get_logger("kubeweir.streams")

_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.3


class TopicIds:
    """Remembers the id of each topic that was seen. One thread may call its methods."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self.unseen: dict[str, str] = {}
        """Topics that Kafka did not show at the last look, and why."""
        self.remade: list[str] = []
        """Topics that were made again since the first look."""

    def look(self, admin: AdminClient, topics: Iterable[str]) -> list[TopicAndPartition]:
        """Return the partitions of these topics.

        Raises KafkaException, and TimeoutError if Kafka does not answer."""
        places: list[TopicAndPartition] = []
        unseen = {}
        for topic, answer in admin.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT_S).items():
            try:
                found = answer.result(2 * _TIMEOUT_S)
            except KafkaException as error:
                code = error.args[0].code()
                if code not in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED):
                    raise
                is_gone = code == KafkaError.UNKNOWN_TOPIC_OR_PART
                unseen[topic] = "it does not exist" if is_gone else error.args[0].str()
                continue
            places += [(topic, one.id) for one in found.partitions]
            topic_id = str(found.topic_id)
            if self._ids.setdefault(topic, topic_id) != topic_id and topic not in self.remade:
                self.remade.append(topic)
        self.unseen = unseen
        return places


def rewind(connection: Connection, group: str, topics: Sequence[str], patience_s: float) -> None:
    """Set the offsets of a group without members to the beginning of topics that were just made.

    Waits for its last member to leave. What is in the way after ``patience_s`` is logged."""
    groups, deadline = GroupCoordinators(connection), time.monotonic() + patience_s
    admin = RenewedClient(lambda: admin_client(connection))
    while True:
        try:
            # This raises while a certificate is half written, as it may be when it is renewed.
            places = TopicIds().look(admin.get(), topics)
            groups.set_offsets(group, [TopicPartition(*place, 0) for place in places])
        except (KafkaException, TimeoutError) as error:
            admin.unanswered()
            problem = error_text(error)
        else:
            return
        if time.monotonic() > deadline:
            log.error("records of a topic that was made again may be missed: the offsets of its group could not be set",
                      group=group, topics=topics, error=problem)  # fmt: skip
            return
        time.sleep(_RETRY_S)
