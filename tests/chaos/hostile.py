"""Records that no sender of ours makes, in every topic that a role reads."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from enrich.wire.topics import Topics
from tests.kafka.test_hostile_records import HOSTILE

_JUNK: Final = (b"", b"\0" * 50, b"{", b"null", b'{"id":7}', b'{"v":1,"id":"\xff"}', b"[" * 5000, b'{"schema":1}' * 3)
_LARGE: Final = 64 << 20


class Hostile:
    """Sends malformed records, and remembers where those are that must become dead letters."""

    def __init__(self, names: Topics, connection: Mapping[str, Any]) -> None:
        """``connection``: librdkafka's settings of somebody who may write everything."""
        self._names, self._connection = names, connection
        self.expected: set[tuple[str, int, int]] = set()
        """Topic, partition and offset of records that must be dead-lettered."""
        self.sent = 0

    def send(self, chance: random.Random) -> str:
        """Send some to one topic; return what was sent, in words."""
        topic = chance.choice([one.name for one in self._names if one is not self._names.dead])
        is_raw = topic == self._names.raw.name
        values = list(HOSTILE.values()) if is_raw else list(_JUNK)
        chosen = chance.sample(values, 3)
        more = {"message.max.bytes": _LARGE, "compression.type": "lz4", "log_level": 0}
        producer = Producer({**self._connection, **more})

        def on_answer(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self.sent += 1
                if is_raw:
                    self.expected.add((topic, message.partition(), message.offset()))

        for value in chosen:
            producer.produce(topic, value, b"c1/n1/bad", on_delivery=on_answer)
        producer.flush(60)
        return f"{len(chosen)} hostile records in {topic}"
