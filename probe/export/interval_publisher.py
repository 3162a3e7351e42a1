"""Sends the address intervals of this node's pods to their compacted Kafka topic.

Only the newest record of a key matters, so a newer one replaces one that still waits. Nothing is kept on disk: what
Kafka does not take before the process ends, the next probe sends again (``probe.node.address_intervals``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.wire.topics import Topic

log = structlog.get_logger("kubeweir.probe")

_RETRY_S: Final = 0.5
_POLL_S: Final = 0.5


class AddressIntervalPublisher:
    """One thread that sends the newest record of each key; it starts when the object is made."""

    def __init__(self, topic: Topic, config: Mapping[str, Any]) -> None:
        """``config`` has librdkafka's settings for the connection."""
        self._topic = topic
        self._admin = AdminClient(dict(config), logger=logging.getLogger("kubeweir.rdkafka"))
        self._producer = Producer(
            {
                **config, "enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 0,
                "compression.type": "lz4", "linger.ms": 5, "partitioner": "murmur2_random",
            },
            logger=logging.getLogger("kubeweir.rdkafka"),
        )  # fmt: skip
        self._waiting: dict[bytes, bytes | None] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self.published = 0
        """Records that Kafka has acknowledged."""
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="address-intervals", daemon=True)
        self._thread.start()

    def publish(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Send these records soon: value by key, None to delete the key. Any thread may call it."""
        with self._changed:
            self._waiting |= changes
            self._changed.notify()

    def stop(self, patience_s: float) -> None:
        """Send what waits for at most ``patience_s`` seconds, and end."""
        deadline = time.monotonic() + patience_s
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(2 * _RETRY_S + 5)
        self._producer.flush(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        ready = False
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stop.is_set(), _POLL_S)
                batch, self._waiting = self._waiting, {}
            try:
                ready = ready or not batch or self._create_topic()
            except KafkaException as error:
                self.problem = f"{self._topic.name}: {error.args[0].str()}"
            if not ready or not self._send(batch):
                with self._changed:
                    self._waiting = {**batch, **self._waiting}
                self._stop.wait(_RETRY_S)
            self._producer.poll(0)

    def _create_topic(self) -> bool:
        """Create the topic if it is missing; a broker that creates it by itself does not make it compacted."""
        found = self._admin.list_topics(timeout=2).topics.get(self._topic.name)
        if found is None or found.error is not None:
            new = NewTopic(self._topic.name, self._topic.partitions, config=dict(self._topic.config))
            self._admin.create_topics([new])[self._topic.name].result(10)
        return True

    def _send(self, batch: Mapping[bytes, bytes | None]) -> bool:
        try:
            for key, value in batch.items():
                self._producer.produce(self._topic.name, value, key, on_delivery=self._on_answer)
        except (BufferError, KafkaException) as error:
            self.problem = f"{self._topic.name}: {error}"
            return False
        return True

    def _on_answer(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.published += 1
            self.problem = None
        elif error.code() != KafkaError._PURGE_QUEUE:
            self.problem = f"{self._topic.name}: {error.str()}"
            log.error("Kafka refused an address interval: workers may not name this pod as a peer",
                      error=error.str(), key=str(message.key()), topic=self._topic.name)  # fmt: skip
