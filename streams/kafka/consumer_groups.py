"""Lists the consumer groups that Kafka keeps, describes them, sets their offsets, and deletes those without a use.

Theory of operation. A group's coordinator, which is a broker, answers all of this but the list. The client must find it
first, and librdkafka ends the whole process, by an assertion, when it finds it too late. Say a broker is killed. A call
of the administration client that describes a group of this broker times out after 5 s, inside librdkafka. 3 s later
another broker becomes the coordinator: librdkafka sends what is left of the call, frees it twice, and aborts.

So no such call times out inside librdkafka: there it may take an hour. The caller waits for its own, shorter, time. The
client is destroyed together with the calls that were not answered (:mod:`enrich.runtime.renewed_client` says when), and
the client for Python keeps 4 kB of each for ever. No other module may make these calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from enrich.runtime.renewed_client import RenewedClient
from streams.kafka.connection import CALL_TIMEOUT_S, Connection, ReadError, admin_client
from streams.kafka.errors import error_text, lacks_right
from streams.kafka.records import TopicAndPartition

_ANSWER_S: Final = 5.0
"""How long a coordinator may take to be found and to answer."""
_NEVER_S: Final = 3600.0
"""The timeout of a call inside librdkafka, which takes no longer one."""


class GroupCoordinators:
    """Asks the coordinators of groups. One thread may call its methods, which raise KafkaException and TimeoutError."""

    def __init__(self, connection: Connection) -> None:
        self._admin = RenewedClient(lambda: admin_client(connection))

    def refusal(self, group: str) -> str:
        """Return why the user may not see a group, empty if it may."""
        try:
            self._describe(group)
        except KafkaException as error:
            if not lacks_right(error.args[0]):
                raise
            return error_text(error)
        return ""

    def others(self, group: str, member: str) -> int:
        """Return how many members but this one a group has."""
        return len([one for one in self._describe(group).members if one.member_id != member])

    def assigned_partitions(self, group: str) -> frozenset[TopicAndPartition]:
        """Return the partitions that the members of a group read."""
        assigned = [member.assignment.topic_partitions for member in self._describe(group).members]
        return frozenset((one.topic, one.partition) for partitions in assigned for one in partitions)

    def set_offsets(self, group: str, offsets: Sequence[TopicPartition]) -> None:
        """Set what a group without members has committed."""
        request = ConsumerGroupTopicPartitions(group, list(offsets))
        answer = self._answer(
            lambda admin: admin.alter_consumer_group_offsets([request], request_timeout=_NEVER_S)[group]
        )
        errors: list[KafkaError] = [one.error for one in answer.topic_partitions or () if one.error]
        if errors:
            raise KafkaException(errors[0])

    def _describe(self, group: str) -> ConsumerGroupDescription:
        return self._answer(lambda admin: admin.describe_consumer_groups([group], request_timeout=_NEVER_S)[group])

    def _answer(self, ask: Callable[[AdminClient], Future[Any]]) -> Any:
        # This raises while a certificate is half written, as it may be when it is renewed.
        admin = self._admin.get()
        try:
            answer = ask(admin).result(_ANSWER_S)
        except (KafkaException, TimeoutError):
            self._admin.unanswered()
            raise
        self._admin.answered()
        return answer


def others_of(connection: Connection, group: str, member: str) -> int | None:
    """Return how many members but this one a group has; None if Kafka does not say."""
    try:
        return GroupCoordinators(connection).others(group, member)
    except (KafkaException, TimeoutError):
        return None


def group_names(connection: Connection, prefix: str) -> list[str]:
    """Return the names of all groups that begin with ``prefix``, sorted. Raises :class:`ReadError`."""
    # The client must outlive the answer: without a name of its own it would be destroyed at once.
    admin = admin_client(connection)
    try:
        found = admin.list_consumer_groups(request_timeout=CALL_TIMEOUT_S).result(2 * CALL_TIMEOUT_S)
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"Kafka cannot be reached: {error_text(error)}") from error
    if found.errors:
        raise ReadError(f"Kafka does not list all groups: {found.errors[0].str()}")
    return sorted(group.group_id for group in found.valid if group.group_id.startswith(prefix))


def delete_groups(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """Delete groups with their offsets. Return why each of those that are still there could not be deleted."""
    refused = {}
    admin = admin_client(connection)
    for name, future in admin.delete_consumer_groups(list(names), request_timeout=_NEVER_S).items():
        try:
            future.result(CALL_TIMEOUT_S)
        except (KafkaException, TimeoutError) as error:
            refused[name] = error_text(error)
    return refused
