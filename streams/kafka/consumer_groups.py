"""The consumer groups that Kafka keeps: lists them, and deletes those that are not needed any longer."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaException

from streams.kafka.connection import CALL_TIMEOUT_S, Connection, ReadError, admin_client


def group_names(connection: Connection, prefix: str) -> list[str]:
    """Return the names of all groups that begin with ``prefix``, sorted. Raises :class:`ReadError`."""
    # The client must outlive the answer: without a name of its own it would be destroyed at once.
    admin = admin_client(connection)
    try:
        found = admin.list_consumer_groups(request_timeout=CALL_TIMEOUT_S).result(2 * CALL_TIMEOUT_S)
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"Kafka cannot be reached: {_text(error)}") from error
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
            refused[name] = _text(error)
    return refused


def _text(error: Exception) -> str:
    return error.args[0].str() if isinstance(error, KafkaException) else "no answer"
