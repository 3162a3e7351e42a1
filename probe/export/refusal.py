"""What Kafka refuses for now, and when to try again.

A right can be taken back while the probe runs, a topic be deleted, or a broker's policy change. None of these ends the
probe: the probe says what is refused, keeps what it has to send, and tries again until Kafka takes it. Example: the
first refusal at 12:00:00 allows the next attempt at 12:00:00.5, that one's refusal the next at 12:00:01.5, and later
ones follow at intervals of 8 seconds at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError

from enrich.diagnosis.rights import missing_right, user_of

FINAL: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD}
)
"""The record itself is refused, and would be again."""
BROKEN: Final = frozenset(
    {KafkaError._FATAL, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
"""Errors after which a new producer helps: of the idempotent producer itself, and of a topic that was deleted."""
UNAUTHORIZED: Final = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
"""A right is missing. Kafka calls it the cluster's if the user may write to no topic at all: then an idempotent
producer does not even get its number, and counts as broken for good."""
PURGED: Final = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
"""The producer was replaced before Kafka answered."""

_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 8.0


class Refusal:
    """Whether Kafka refuses one kind of records for now. One thread notes; any thread may read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.problem = ""
        """What is refused and why, in words; empty if nothing is."""
        self.total = 0
        """Answers that refused a record."""
        self._clock = clock
        self._backoff_s = _FIRST_BACKOFF_S
        self._next_at = 0.0

    @property
    def wait_s(self) -> float:
        """The seconds until the next attempt is due; 0 if it is."""
        return max(0.0, self._next_at - self._clock()) if self.problem else 0.0

    def note(self, why: str) -> bool:
        """Note a refusal; return whether it is the first one, or has another reason than the last."""
        is_new, is_first, self.problem = why != self.problem, not self.problem, why
        self.total += 1
        if is_first:
            self._delay()
        return is_new

    def retry(self) -> None:
        """Note that the next attempt begins. The one after it is due later, so that this one has time to succeed."""
        if self.problem:
            self._delay()

    def _delay(self) -> None:
        self._next_at = self._clock() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)

    def clear(self) -> None:
        """Note that Kafka has taken a record."""
        self.problem, self._backoff_s, self._next_at = "", _FIRST_BACKOFF_S, 0.0


def in_words(error: KafkaError, topic: str, config: Mapping[str, Any]) -> str:
    """Return why a record for a topic is refused: the missing right with the command that gives it, if any.

    ``config`` has librdkafka's settings for the connection."""
    if error.code() in UNAUTHORIZED:
        return missing_right("WRITE", "topic", topic, user_of(config))
    return str(error.str())


def unseen(error: KafkaError, topic: str, config: Mapping[str, Any]) -> str:
    """Return why a topic that was not found cannot be created: Kafka does not tell a topic that is missing from one
    that this user may not see."""
    if error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return f"topic {topic} cannot be created: {error.str()}"
    return (
        f"topic {topic} cannot be seen: {in_words(error, topic, config)} (if the topic does not exist, create it, or "
        "give the right CREATE as well)"
    )
