"""Sends the address intervals of this node's pods to their compacted Kafka topic.

Only the newest record of a key matters, so a newer one replaces one that still waits. Nothing is kept on disk: what
Kafka does not take before the process ends, the next probe sends again (``probe.node.address_intervals``). What Kafka
refuses for now, because a right was taken back for example, waits and is sent again (``probe.export.refusal``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.runtime.stall import Stall
from enrich.wire.topics import Topic
from probe.export.delivery_reports import DeliveryReports
from probe.export.fresh_client import FreshClient
from probe.export.refusal import BROKEN, FINAL, PURGED, UNAUTHORIZED, Refusal, in_words, unseen

log = structlog.get_logger("kubeweir.probe")

_RETRY_S: Final = 0.5
_POLL_S: Final = 0.5
_ANSWER_POLL_S: Final = 0.05
_ANSWER_S: Final = 10
"""How long a broker may take to answer; librdkafka reports a longer time as it does any other error."""
_MAX_IN_FLIGHT: Final = 5
"""See :mod:`probe.export.publisher`: more would wait inside librdkafka, and use a core while the broker is frozen."""

_BATCH_BYTES: Final = 100_000
"""Bytes of a batch before it is compressed. The topic takes 128 KiB."""
_MAX_WAITING: Final = 16_384
"""Records that wait: some 10 MB. Beyond it, deletions are given up first, because the topic deletes what is a week old
by itself, and then what has waited for longest, which is published again once a day."""


class AddressIntervalPublisher:
    """One thread that sends the newest record of each key; it starts when the object is made."""

    def __init__(self, topic: Topic, config: Mapping[str, Any], stall_s: float = 30.0) -> None:
        """``config`` has librdkafka's settings for the connection. ``stall_s``: see :mod:`enrich.runtime.stall`."""
        self._topic, self._config = topic, dict(config)
        self._client = self._new_client()
        self._producer: Producer | None = None
        """The thread makes it, and tries again while librdkafka makes none: a bad certificate ends nothing."""
        self._waiting: dict[bytes, bytes | None] = {}
        self._in_flight: dict[bytes, bytes | None] = {}
        """Records that Kafka has not answered yet; a key has at most one."""
        self._changed = threading.Condition()
        self._stop, self._renewed = threading.Event(), threading.Event()
        """``_renewed``: a new producer is due."""
        self._stall = Stall(stall_s)
        self._published_before = 0
        self._cause = ""
        self._reports = DeliveryReports()
        self._topic_exists = False
        self.published = 0
        """Records that Kafka has acknowledged."""
        self.on_acknowledged: Callable[[], None] = lambda: None
        """Called when Kafka has acknowledged a record."""
        self.dropped = {"refused": 0, "queue_full": 0}
        """Records that were given up, by reason: Kafka would never take them, or too many waited."""
        self.refusal = Refusal()
        """Whether Kafka refuses the records, although it can be reached."""
        self._thread = threading.Thread(target=self._run, name="address-intervals", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """What keeps address intervals from Kafka, in words; None if nothing does."""
        waiting = len(self._waiting) + len(self._in_flight)
        if self.refusal.problem and waiting:  # only an acknowledged record shows that Kafka refuses no longer
            return (
                f"Kafka refuses address intervals: {self.refusal.problem}; {waiting} wait: workers may not name these "
                "pods"
            )
        if not self._stall.is_stalled:
            return None
        return (
            f"Kafka has acknowledged no address interval for {self._stall.seconds:.0f} s, {waiting} wait for "
            f"{self._topic.name}{self._cause}: workers may not name these pods"
        )

    def publish(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Send these records soon: value by key, None to delete the key. Any thread may call it."""
        with self._changed:
            self._waiting |= changes
            self._make_room()
            self._changed.notify()

    def _make_room(self) -> None:
        excess = len(self._waiting) - _MAX_WAITING
        if excess <= 0:
            return
        for key in sorted(self._waiting, key=lambda key: self._waiting[key] is not None)[:excess]:
            del self._waiting[key]
        self.dropped["queue_full"] += excess

    def renew(self, config: Mapping[str, Any]) -> None:
        """Go on with a new producer, by these settings for the connection. Any thread may call it."""
        self._config = dict(config)
        self._client = self._new_client()
        self._renewed.set()

    def stop(self, patience_s: float) -> None:
        """Send what waits for at most ``patience_s`` seconds, and end."""
        deadline = time.monotonic() + patience_s
        while (self._waiting or self._in_flight) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(2 * _RETRY_S + 5)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                if not self._in_flight:
                    self._changed.wait_for(lambda: self._waiting or self._stop.is_set(), _POLL_S)
            try:
                may_send = self._may_send()
                producer = self._rebuild() if self._producer is None or self._renewed.is_set() else self._producer
                if may_send:
                    self._send(producer)
                self._reports.poll(producer, _ANSWER_POLL_S if self._in_flight else 0)
            except KafkaException as error:
                self._note(error.args[0])
                self._stop.wait(_RETRY_S)
            self._measure()

    def _may_send(self) -> bool:
        """Return whether records may be sent now. What Kafka refuses waits for its next attempt, by a new producer."""
        if not (self._waiting or (self.refusal.problem and self._in_flight)):
            return False
        if self.refusal.problem:
            if self._stop.wait(min(self.refusal.wait_s, _RETRY_S)) or self.refusal.wait_s:
                return False
            self.refusal.retry()
            # A producer remembers for minutes that it may not see a topic.
            self._renewed.set()
        return True

    def _note(self, error: KafkaError) -> None:
        """Note why librdkafka takes nothing, or why the topic cannot be used."""
        self._cause = f" ({error.str()})"
        if error.code() in UNAUTHORIZED:
            # A fatal error is the producer's, which gets no number; any other is of the attempt to create the topic.
            say = in_words if error.fatal() else unseen
            self._note_refusal(say(error, self._topic.name, self._config))
        elif error.fatal() or error.code() in BROKEN:
            self._renewed.set()

    def _note_refusal(self, why: str) -> None:
        if self.refusal.note(why):
            log.error("Kafka refuses address intervals: they wait, and are sent again", error=why)

    def _measure(self) -> None:
        """Measure progress, and replace the producer if it makes none although Kafka answers others.

        The probe does not end for it: its intervals are sent again at the next start."""
        progressed = self.published != self._published_before
        self._published_before = self.published
        self._stall.update(waits=bool(self._waiting or self._in_flight), progressed=progressed)
        if self.refusal.problem:
            return  # Kafka answers, and what it answers does not depend on the client
        if self._stall.needs_new_clients(self._is_reachable):
            log.error("Kafka answers, and has acknowledged no address interval for long; replacing the producer",
                      problem=self.problem)  # fmt: skip
            self._renewed.set()

    def _rebuild(self) -> Producer:
        """Go on with a new producer. Raises KafkaException if librdkafka makes none; then it is still due."""
        self._renewed.clear()  # before the producer is made: it may be renewed at the same time
        if self._producer is not None:
            self._reports.end(self._producer)
        for key in list(self._in_flight):
            self._send_again(key)
        self._topic_exists = False
        try:
            self._producer = self._new_producer()
        except KafkaException:
            self._renewed.set()
            raise
        return self._producer

    def _create_topic(self) -> bool:
        """Create the topic if it is missing; a broker that creates it by itself does not make it compacted."""
        admin, known = self._client.list_topics()
        found = known.topics.get(self._topic.name)
        if found is None or found.error is not None:
            new = NewTopic(self._topic.name, self._topic.partitions, config=dict(self._topic.config))
            admin.create_topics([new], request_timeout=_ANSWER_S)[self._topic.name].result()
        return True

    def _send(self, producer: Producer) -> None:
        """Hand records to librdkafka, as many as may be in flight. Raises KafkaException."""
        if not self._topic_exists:
            self._topic_exists = self._create_topic()
        with self._changed:
            keys = [key for key in self._waiting if key not in self._in_flight][: _MAX_IN_FLIGHT - len(self._in_flight)]
        for key in keys:
            with self._changed:
                value = self._in_flight[key] = self._waiting.pop(key)
            try:
                producer.produce(self._topic.name, value, key, on_delivery=self._reports.noting(self._on_answer))
            except BaseException:
                self._send_again(key)
                raise

    def _send_again(self, key: bytes) -> None:
        """Let a record in flight wait once more, unless a newer one does."""
        with self._changed:
            if key in self._in_flight:
                self._waiting.setdefault(key, self._in_flight.pop(key))

    def _on_answer(self, error: KafkaError | None, message: Message) -> None:
        key = message.key() or b""
        if error is None:
            self._in_flight.pop(key, None)
            self.published += 1
            self.on_acknowledged()
            self._cause = ""
            self.refusal.clear()
        elif error.code() in FINAL:
            self._in_flight.pop(key, None)
            self.dropped["refused"] += 1
            log.error("Kafka refused an address interval: workers may not name this pod as a peer",
                      error=error.str(), key=str(key), topic=self._topic.name)  # fmt: skip
        else:
            self._topic_exists = False
            self._send_again(key)
            if error.code() not in BROKEN | PURGED:
                self._note_refusal(in_words(error, self._topic.name, self._config))

    def _on_error(self, error: KafkaError) -> None:
        """Take an error of the producer itself; most are of connections, which librdkafka makes again. A fatal one is
        raised by ``poll`` instead."""
        if error.code() in UNAUTHORIZED:
            self._note_refusal(in_words(error, self._topic.name, self._config))

    def _is_reachable(self) -> bool:
        try:
            self._client.list_topics(self._topic.name)
        except KafkaException:
            return False
        return True

    def _new_client(self) -> FreshClient:
        config = self._config
        return FreshClient(lambda: AdminClient(config, logger=logging.getLogger("kubeweir.rdkafka")))

    def _new_producer(self) -> Producer:
        return Producer(
            {
                **self._config, "enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 0,
                "compression.type": "lz4", "linger.ms": 5, "partitioner": "murmur2_random",
                "batch.size": _BATCH_BYTES, "error_cb": self._on_error,
            },
            logger=logging.getLogger("kubeweir.rdkafka"),
        )  # fmt: skip
