"""Where consumer groups are in the topics that they read, and how much waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import OffsetSpec

from streams.kafka.committed import CommittedOffsets
from streams.kafka.connection import CALL_TIMEOUT_S, Connection, ReadError, admin_client
from streams.kafka.errors import error_text
from streams.kafka.offsets import ask_while_leaders_move, first_or_last_offsets, stable_and_last_offsets
from streams.kafka.open_transactions import committed_or_blocked

_BLOCKED: Final = "a transaction that has not ended holds its offsets back: see weir doctor"


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """How far a group has come in a topic, all partitions together."""

    group: str
    topic: str
    committed: int
    """Records before the committed offsets."""
    waiting: int
    """Records that are not committed yet, and that the topic still has."""
    error: str = ""
    """Why it is not known."""


def group_positions(connection: Connection, groups: Sequence[str], topics: Sequence[str]) -> list[GroupPosition]:
    """Return the position of each group in each of these topics of which it has committed anything.

    Raises :class:`ReadError` if Kafka cannot be reached; what it refuses about a group is in ``error``."""
    admin = admin_client(connection)
    offsets = CommittedOffsets(connection, CALL_TIMEOUT_S)
    try:
        known = admin.list_topics(timeout=CALL_TIMEOUT_S).topics
        places = [(topic, partition) for topic in topics if topic in known for partition in known[topic].partitions]
        ask = partial(first_or_last_offsets, admin, places, OffsetSpec.earliest())
        starts = ask_while_leaders_move(ask, CALL_TIMEOUT_S)
        # What is behind an open transaction waits, too.
        _, ends = ask_while_leaders_move(partial(stable_and_last_offsets, admin, places), CALL_TIMEOUT_S)
        found = []
        for group in groups:
            try:
                committed, is_blocked = committed_or_blocked(offsets, group, places)
            except KafkaException as error:
                found.append(GroupPosition(group, "", 0, 0, error_text(error)))
                continue
            if is_blocked:
                found.append(GroupPosition(group, "", 0, 0, _BLOCKED))
                continue
            for topic in dict.fromkeys(topic for topic, _ in places):
                own = {place: offset for place, offset in committed.items() if place[0] == topic}
                if own:
                    # Of a partition without an offset, everything waits, or nothing was ever in it; what retention has
                    # removed waits no more.
                    begins = {place: max(own.get(place, 0), starts.get(place, 0)) for place in ends}
                    waiting = sum(max(0, end - begins[place]) for place, end in ends.items() if place[0] == topic)
                    found.append(GroupPosition(group, topic, sum(own.values()), waiting))
    except (KafkaException, TimeoutError) as error:
        raise ReadError(f"Kafka cannot be reached: {error_text(error)}") from error
    finally:
        offsets.keep(())
    return found
