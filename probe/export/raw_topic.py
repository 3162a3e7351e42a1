"""The raw topic, as the probe needs it: created if it is missing, and checked before its producer sends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from enrich.runtime.settings import SettingsError
from enrich.wire.topics import Topic
from probe.export.fresh_client import FreshClient
from probe.export.refusal import in_words, unseen

log = structlog.get_logger("kubeweir.probe")

_ANSWER_S: Final = 10
"""How long a broker may take to answer; librdkafka reports a longer time as it does any other error."""
_ONLINE: Final = {"bootstrap.servers", "security.protocol", "sasl.mechanism"}
MAX_IN_FLIGHT_BYTES: Final = 32 << 20
"""A small spool allows a quarter of its size only, because it cannot remove verdicts from batches in flight."""
_NO_TOKEN: Final = "Failed to acquire SASL OAUTHBEARER token"  # noqa: S105 - a text of librdkafka's
_MAX_BATCH_BYTES: Final = 8 << 20
"""The topic has the same limit. Batches stay under 512 kB unless one verdict alone refers to too many policies."""
CREATED: Final = "the topic was created just now"
"""Not a problem, but the topic must be looked at once more: another probe may have been faster, with other settings."""


def quiet_logger() -> logging.Logger:
    """Return a logger that drops librdkafka's lines: several times a second, they repeat what its callbacks report."""
    quiet = logging.getLogger("kubeweir.rdkafka")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    return quiet


def text_of(error: KafkaError) -> str:
    """Return an error's text, without what a token endpoint has answered: that may quote the client's secret."""
    text = str(error.str())
    return _NO_TOKEN if text.startswith(_NO_TOKEN) else text


def check_connection(connection: Mapping[str, str]) -> None:
    """Raise :class:`SettingsError` if librdkafka, which alone knows its settings, does not take one of them.

    Nothing is connected, and no certificate is read: a file that is bad for a while must not keep the probe from
    enforcing policy."""
    offline = {name: value for name, value in connection.items() if name not in _ONLINE}
    try:
        Producer(offline, logger=quiet_logger())
    except KafkaException as error:
        raise SettingsError(f"WEIR_KAFKA_EXTRA: librdkafka refuses it: {str(error.args[0].str()).strip()}") from error


class RawTopic:
    """Makes the topic's producers, and looks at the topic.

    Each look has a new client, because an old one may hold on to brokers that are gone; see
    :class:`probe.export.fresh_client.FreshClient`."""

    def __init__(self, topic: Topic, config: Mapping[str, Any]) -> None:
        """``config`` has librdkafka's settings for the connection."""
        self._topic, self._config = topic, dict(config)
        self._client = FreshClient(lambda: AdminClient(self._config, logger=quiet_logger()))

    def problem(self) -> str | None:
        """Return what keeps the topic from being used; None if it is right. It is created if it is missing.

        Raises KafkaException if Kafka cannot be asked."""
        admin, known = self._client.list_topics()
        found = known.topics.get(self._topic.name)
        if found is None or found.error is not None:
            return self._create(admin)
        wrong = self._topic.differences(len(found.partitions), self._described(admin))
        if not wrong:
            return None
        return f"topic {self._topic.name} has a wrong configuration: {'; '.join(wrong)}"

    def refusal(self, error: KafkaError) -> str:
        """Return why a record for the topic is refused, in words."""
        return in_words(error, self._topic.name, self._config)

    def _described(self, admin: AdminClient) -> Mapping[str, str | None]:
        """Return the topic's configuration; the one that it should have if we may not look at it."""
        resource = ConfigResource(ResourceType.TOPIC, self._topic.name)
        try:
            entries = admin.describe_configs([resource], request_timeout=_ANSWER_S)[resource].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            log.warning("a topic's configuration was not checked: no right DESCRIBE_CONFIGS", topic=self._topic.name)
            return self._topic.config
        return {name: entry.value for name, entry in entries.items()}

    def is_reachable(self) -> bool:
        """Return whether Kafka answers a client that is new, and so knows nothing but the bootstrap servers."""
        try:
            self._client.list_topics(self._topic.name)
        except KafkaException:
            return False
        return True

    def new_producer(self, on_error: Callable[[KafkaError], None]) -> Producer:
        """Return a new producer."""
        return Producer(
            {
                **self._config,
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": 0,
                "compression.type": "lz4",
                # The broker refuses a whole producer batch, so each holds one record. Ours are large already.
                "linger.ms": 0,
                "batch.num.messages": 1,
                "message.max.bytes": _MAX_BATCH_BYTES,
                "partitioner": "murmur2_random",
                "queue.buffering.max.kbytes": 2 * MAX_IN_FLIGHT_BYTES >> 10,
                "error_cb": on_error,
            },
            logger=quiet_logger(),
        )

    def _create(self, admin: AdminClient) -> str:
        new = NewTopic(self._topic.name, self._topic.partitions, config=dict(self._topic.config))
        try:
            admin.create_topics([new], request_timeout=_ANSWER_S)[self._topic.name].result()
            log.info("topic created", topic=self._topic.name, partitions=self._topic.partitions)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                return unseen(error.args[0], self._topic.name, self._config)
        return CREATED
