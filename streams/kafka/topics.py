"""Topics: made where they are missing, compared with what they must be."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from enrich.runtime.process import Exit, StopServiceError
from enrich.wire.topics import Topic
from streams.kafka.connection import CALL_S, Connection, ReadError, Waiter, admin_of

log = structlog.get_logger("kubeweir.streams")


def prepare_topics(connection: Connection, wanted: Iterable[Topic], replication: int, stop: threading.Event) -> bool:
    """Make what is missing, check what is there. Waits for Kafka; False: stopped meanwhile.

    A topic that is not as it must be gets a line and is left alone. One that cannot be made ends the service.
    """
    admin = admin_of(connection)
    waiter = Waiter(connection["bootstrap.servers"], stop)
    while not stop.is_set():
        try:
            known = admin.list_topics(timeout=3).topics
            _make(admin, [topic for topic in wanted if topic.name not in known], replication)
            _check(admin, [(topic, len(known[topic.name].partitions)) for topic in wanted if topic.name in known])
        except KafkaException as error:
            waiter.wait(error.args[0].str())
        else:
            return True
    return False


def _make(admin: AdminClient, missing: Sequence[Topic], replication: int) -> None:
    if not missing:
        return
    new = [
        NewTopic(topic.name, topic.partitions, replication_factor=replication or -1, config=dict(topic.config))
        for topic in missing
    ]
    for name, future in admin.create_topics(new).items():
        try:
            future.result(CALL_S)
            log.info("topic made", topic=name)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if error.args[0].retriable() or code in {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}:
                raise
            raise StopServiceError(f"topic {name} cannot be made: {error.args[0].str()}", Exit.KAFKA) from error


def _check(admin: AdminClient, found: Sequence[tuple[Topic, int]]) -> None:
    resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic, _ in found]
    if not resources:
        return
    answers = {resource.name: future for resource, future in admin.describe_configs(resources).items()}
    for topic, partitions in found:
        config = {name: entry.value for name, entry in answers[topic.name].result(CALL_S).items()}
        wrong = topic.differences(partitions, config)
        if wrong:
            log.warning(
                "a topic is not as it must be; it is left as it is: delete it and start again, or change the setting",
                topic=topic.name,
                problems=wrong,
            )


def existing_topics(connection: Connection, stop: threading.Event) -> frozenset[str]:
    """The names of all topics. Waits for Kafka; none if it is stopped meanwhile."""
    admin = admin_of(connection)
    waiter = Waiter(connection["bootstrap.servers"], stop)
    while not stop.is_set():
        try:
            return frozenset(admin.list_topics(timeout=3).topics)
        except KafkaException as error:
            waiter.wait(error.args[0].str())
    return frozenset()


def partitions_of(connection: Connection, topics: Sequence[str]) -> dict[str, int]:
    """How many each of these topics has. Raises :class:`ReadError`."""
    admin = admin_of(connection)
    try:
        found = admin.list_topics(timeout=CALL_S).topics
    except KafkaException as error:
        raise ReadError(f"Kafka cannot be reached: {error.args[0].str()}") from error
    return {topic: len(found[topic].partitions) if topic in found else 0 for topic in topics}
