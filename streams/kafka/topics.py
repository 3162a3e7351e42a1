"""Topics: the missing ones are created, the existing ones compared with what the service needs."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from enrich.runtime.process import Exit, StopServiceError
from enrich.wire.topics import Topic
from streams.kafka.connection import CALL_TIMEOUT_S, Backoff, Connection, ReadError, admin_client
from streams.kafka.errors import error_text, lacks_right, topic_error

log = structlog.get_logger("kubeweir.streams")


class NoRightError(StopServiceError):
    """A topic cannot be created because a right is missing. Retry: somebody may give it."""


def prepare_topics(connection: Connection, topics: Iterable[Topic], replication: int, stop: threading.Event) -> bool:
    """Create the topics that are missing and check the others. Waits for Kafka; returns False if stopped meanwhile.

    ``replication`` 0 takes the broker's default. A topic whose configuration differs is reported in the log and left
    as it is. Raises StopServiceError if a topic cannot be created: NoRightError if only rights are missing.
    """
    admin = admin_client(connection)
    backoff = Backoff(connection["bootstrap.servers"], stop)
    while not stop.is_set():
        try:
            known = admin.list_topics(timeout=3).topics
            _create(connection, admin, [topic for topic in topics if topic.name not in known], replication)
            _check(admin, [(topic, len(known[topic.name].partitions)) for topic in topics if topic.name in known])
        except (KafkaException, TimeoutError) as error:
            backoff.wait(error_text(error))
        else:
            return True
    return False


def _create(connection: Connection, admin: AdminClient, missing: Sequence[Topic], replication: int) -> None:
    if not missing:
        return
    new = [
        NewTopic(topic.name, topic.partitions, replication_factor=replication or -1, config=dict(topic.config))
        for topic in missing
    ]
    refused = []
    for name, future in admin.create_topics(new, request_timeout=CALL_TIMEOUT_S).items():
        try:
            future.result(2 * CALL_TIMEOUT_S)
            log.info("topic created", topic=name)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if error.args[0].retriable() or code in {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}:
                raise
            text = topic_error(connection, error.args[0], "CREATE", name)
            if not lacks_right(error.args[0]):
                raise StopServiceError(f"the topic {name} cannot be created: {text}", Exit.KAFKA) from error
            # Kafka does not show a topic to a user without any right on it.
            refused.append(f"the topic {name} is not there, or not shown, and cannot be created: {text}")
    if refused:
        raise NoRightError("; ".join(refused), Exit.KAFKA)


def _check(admin: AdminClient, found: Sequence[tuple[Topic, int]]) -> None:
    configs = _configs(admin, [topic.name for topic, _ in found])
    for topic, partitions in found:
        config = configs[topic.name]
        if config is None:
            log.warning("a topic's configuration was not checked: no right DESCRIBE_CONFIGS", topic=topic.name)
            continue
        differences = topic.differences(partitions, config)
        if differences:
            log.warning(
                "a topic differs from what the service needs and is left as it is",
                topic=topic.name,
                problems=differences,
            )


def _configs(admin: AdminClient, names: Sequence[str]) -> dict[str, Mapping[str, str | None] | None]:
    """Return the configuration of each topic; None without the right DESCRIBE_CONFIGS. Raises KafkaException."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    found: dict[str, Mapping[str, str | None] | None] = {}
    for resource, future in admin.describe_configs(resources, request_timeout=CALL_TIMEOUT_S).items():
        try:
            found[resource.name] = {name: one.value for name, one in future.result(2 * CALL_TIMEOUT_S).items()}
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            found[resource.name] = None
    return found


def found_topics(
    connection: Connection, names: Collection[str]
) -> dict[str, tuple[int, Mapping[str, str | None] | None]]:
    """Return the number of partitions of each topic that exists, and its configuration, None without the right
    DESCRIBE_CONFIGS. Raises :class:`ReadError`."""
    admin = admin_client(connection)
    try:
        known = admin.list_topics(timeout=CALL_TIMEOUT_S).topics
        partitions = {name: len(known[name].partitions) for name in names if name in known}
        configs = _configs(admin, list(partitions))
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"Kafka cannot be reached: {error_text(error)}") from error
    return {name: (count, configs[name]) for name, count in partitions.items()}


def existing_topics(connection: Connection, stop: threading.Event) -> frozenset[str]:
    """Return the names of all topics. Waits for Kafka; returns none if the service stops meanwhile."""
    admin = admin_client(connection)
    backoff = Backoff(connection["bootstrap.servers"], stop)
    while not stop.is_set():
        try:
            return frozenset(admin.list_topics(timeout=3).topics)
        except KafkaException as error:
            backoff.wait(error.args[0].str())
    return frozenset()


def partitions_of(connection: Connection, topics: Sequence[str]) -> dict[str, int]:
    """Return how many partitions each topic has, 0 for a topic that does not exist. Raises :class:`ReadError`."""
    admin = admin_client(connection)
    try:
        found = admin.list_topics(timeout=CALL_TIMEOUT_S).topics
    except KafkaException as error:
        raise ReadError(f"Kafka cannot be reached: {error.args[0].str()}") from error
    return {topic: len(found[topic].partitions) if topic in found else 0 for topic in topics}
