"""Transactions that somebody leaves open."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Self

from confluent_kafka import Consumer, Producer, TopicPartition

_TIMEOUT_S = 120.0


class LeftOpen:
    """A transaction of a producer that does nothing more: as one whose process has died, or whose marker is lost."""

    def __init__(self, connection: dict[str, str]) -> None:
        self._settings = {
            **connection,
            "transactional.id": f"left-open.{secrets.token_hex(4)}",
            "transaction.timeout.ms": 900_000,
            "message.timeout.ms": 120_000,
            "log_level": 0,
        }
        self._connection = connection
        self._producer = Producer(self._settings)
        self._producer.init_transactions(_TIMEOUT_S)
        self._producer.begin_transaction()

    def write(self, topic: str, partition: int = 0, at: float = 0.0) -> int:
        """Write a record, with the Unix time ``at`` if it is given; return its offset."""
        offsets: list[int] = []
        self._producer.produce(
            topic, b"not committed", b"key", partition, timestamp=int(at * 1000),
            on_delivery=lambda _, message: offsets.append(message.offset()),
        )  # fmt: skip
        assert self._producer.flush(_TIMEOUT_S) == 0
        return offsets[0]

    def commit_offsets(self, group: str, offsets: Sequence[TopicPartition]) -> None:
        """Write offsets of a group."""
        member = Consumer({**self._connection, "group.id": group})
        self._producer.send_offsets_to_transaction(list(offsets), member.consumer_group_metadata(), _TIMEOUT_S)
        member.close()

    def abort(self) -> None:
        """End it, as Kafka does at its timeout."""
        successor = Producer(self._settings)
        successor.init_transactions(_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()
