"""Lists the consumer groups that Kafka keeps, describes them, and deletes those that are not needed any longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from streams.kafka.connection import CALL_TIMEOUT_S, Connection, ReadError, admin_client
from streams.kafka.errors import error_text, lacks_right
from streams.kafka.records import TopicAndPartition

_DESCRIBE_TIMEOUT_S: Final = 5.0


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
    for name, future in admin.delete_consumer_groups(list(names)).items():
        try:
            future.result(CALL_TIMEOUT_S)
        except (KafkaException, TimeoutError) as error:
            refused[name] = error_text(error)
    return refused


def group_refusal(admin: AdminClient, group: str) -> str:
    """Return why the user may not see a group, empty if it may. Raises KafkaException and TimeoutError."""
    try:
        _described(admin, group)
    except KafkaException as error:
        if not lacks_right(error.args[0]):
            raise
        return error_text(error)
    return ""


def others_of(connection: Connection, group: str, member: str) -> int | None:
    """Return how many members but this one a group has; None if Kafka does not say."""
    try:
        # This raises while a certificate is half written, as it may be when it is renewed.
        admin = admin_client(connection)
        return len([one for one in _described(admin, group).members if one.member_id != member])
    except (KafkaException, TimeoutError):
        return None


def assigned_partitions(admin: AdminClient, group: str) -> frozenset[TopicAndPartition]:
    """Return the partitions that the members of a group read. Raises KafkaException and TimeoutError."""
    assigned = [member.assignment.topic_partitions for member in _described(admin, group).members]
    return frozenset((one.topic, one.partition) for partitions in assigned for one in partitions)


def _described(admin: AdminClient, group: str) -> ConsumerGroupDescription:
    answer = admin.describe_consumer_groups([group], request_timeout=_DESCRIBE_TIMEOUT_S)[group]
    found: ConsumerGroupDescription = answer.result(2 * _DESCRIBE_TIMEOUT_S)
    return found
