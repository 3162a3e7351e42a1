"""Topics read without a group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from enrich.runtime.process import StopServiceError
from streams.kafka.connection import CALL_S, Connection, ReadError, quiet
from streams.kafka.records import Record, good, take


def read_committed(
    connection: Connection, topic: str, partitions: Iterable[int], since_ms: int = 0
) -> Iterator[Record]:
    """All that is committed in some partitions, from a time on, to the last one. Raises :class:`ReadError`."""
    missing = set(partitions)
    if not missing:
        return
    consumer = Consumer(
        {
            **connection,
            "group.id": "kubeweir.state",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 100,
        },
        logger=quiet(),
    )
    heard = time.monotonic()
    try:
        asked = [TopicPartition(topic, partition, since_ms) for partition in missing]
        # Where there is none so late it begins at the end.
        consumer.assign(consumer.offsets_for_times(asked, CALL_S) if since_ms else _beginning(asked))
        while missing:
            found = consumer.consume(5000, 0.1)
            ends = [one for one in found if one.error() and one.error().code() == KafkaError._PARTITION_EOF]
            missing -= {one.partition() for one in ends}
            yield from good(one for one in found if one not in ends)
            heard = time.monotonic() if found else heard
            if time.monotonic() - heard > 2 * CALL_S:
                raise ReadError(f"{topic} cannot be read to its end")
    except KafkaException as error:
        raise ReadError(f"{topic}: {error.args[0].str()}") from error
    except StopServiceError as error:
        raise ReadError(str(error)) from error
    finally:
        consumer.close()


def _beginning(partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
    return [TopicPartition(one.topic, one.partition, OFFSET_BEGINNING) for one in partitions]


class TopicReader:
    """Reads a topic without a group, from chosen offsets: for people. Raises :class:`ReadError`."""

    def __init__(self, connection: Connection, topic: str, timeout_s: float = 5.0) -> None:
        self._topic, self._timeout_s = topic, timeout_s
        servers = connection["bootstrap.servers"]
        self._consumer = Consumer(
            {
                **connection,
                "group.id": "kubeweir.observe",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
                "socket.connection.setup.timeout.ms": 5000,
            },
            logger=quiet(),
        )
        found = self._call(lambda: self._consumer.list_topics(topic, timeout=timeout_s), servers).topics[topic]
        if found.error is not None:
            raise ReadError(f"there is no topic {topic} at {servers}: has weir-streams run with this prefix?")
        self._partitions = sorted(found.partitions)

    def bounds(self) -> dict[int, tuple[int, int]]:
        """For each partition the first offset that is kept, and the next one that will be written."""
        return {
            partition: self._call(
                lambda partition=partition: self._consumer.get_watermark_offsets(  # type: ignore[misc]  # mypy cannot type a default
                    TopicPartition(self._topic, partition), timeout=self._timeout_s
                )
            )
            for partition in self._partitions
        }

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        """For each partition the first offset with that timestamp or a later one; its end, where there is none."""
        asked = [TopicPartition(self._topic, partition, timestamp_ms) for partition in self._partitions]
        found = self._call(lambda: self._consumer.offsets_for_times(asked, timeout=self._timeout_s))
        ends = self.bounds()
        return {
            one.partition: ends[one.partition][1] if one.offset in {OFFSET_END, -1} else one.offset for one in found
        }

    def start(self, offsets: Mapping[int, int]) -> None:
        """Read from these offsets on."""
        self._consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()])

    def take(self, most: int, wait_s: float) -> list[Record]:
        """What is there; empty after ``wait_s`` without any."""
        try:
            return take(self._consumer, most, wait_s)
        except StopServiceError as error:
            raise ReadError(str(error)) from error

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    @staticmethod
    def _call(ask: Callable[[], Any], servers: str = "") -> Any:
        try:
            return ask()
        except KafkaException as error:
            where = f" at {servers}" if servers else ""
            raise ReadError(f"Kafka cannot be reached{where}: {error.args[0].str()}") from error
