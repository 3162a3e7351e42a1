"""The state of what is measured: groups, and threads that work with Kafka; see :mod:`streams.kafka.lag`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from enrich.runtime.stall import Stall
from enrich.runtime.waiting_time import WaitingTime
from streams.kafka.records import TopicAndPartition
from streams.kafka.topic_ids import TopicIds


@dataclass(slots=True)
class Followed:
    """A group of the role, or another reader with positions of its own."""

    group: str
    topics: Sequence[str]
    own: Callable[[], Collection[TopicAndPartition]]
    """Return the partitions that this process reads, as it believes."""
    waits: Callable[[], int] = lambda: 0
    """Return a number that rises while the reader waits for something else than Kafka, such as its destination."""
    begins: Callable[[], Mapping[TopicAndPartition, int]] = dict
    """Return where the reader begins in partitions of which nothing is committed, if not at the oldest record."""
    positions: Callable[[], Mapping[TopicAndPartition, int]] | None = None
    """Return what is done of each partition, for a reader that commits nothing."""
    has_record: Callable[[TopicAndPartition, int, int], bool] | None = None
    """Return whether there is a record between two offsets, if the reader can tell; else a second client looks."""
    partitions: dict[TopicAndPartition, FollowedPartition] = field(default_factory=dict)
    reads_uncommitted: bool = False
    """Whether it also reads the records of transactions that have not ended."""
    waited: int = 0
    ids: TopicIds = field(default_factory=TopicIds)
    missing: Stall = field(default_factory=lambda: Stall(0.0))
    """How long there have been topics that Kafka does not show."""
    needs: Collection[str] = ()
    """What the reader needs beside the group and its topics: topics that it writes, prefixes of transactional ids."""
    refused: str = ""
    """Why Kafka does not let the group be measured, if a right is missing."""
    unmeasured: str = ""
    """Why the last measurement failed."""
    silent: Stall = field(default_factory=lambda: Stall(0.0))
    """How long measurements have failed, although Kafka answered others."""

    def depends_on(self, name: str) -> bool:
        """Return whether it needs the topic, group or transactional id."""
        return name == self.group or name in self.topics or name in self.needs

    def read_here(self) -> list[FollowedPartition]:
        """Return the partitions that this process reads, or should. Any thread may call it."""
        return [one for one in dict(self.partitions).values() if one.is_own]


@dataclass(slots=True)
class WatchedThread:
    """A thread that calls Kafka's client again and again. A call may hang, and every attempt may fail."""

    name: str
    turns: Callable[[], int]
    """Return a number that rises as long as the thread works."""
    needs: Collection[str]
    """Its group, the topics that it reads and writes, and prefixes of transactional ids."""
    only_writes: Collection[str] = ()
    """Those of the topics that it does not read: it does not wait for transactions there."""
    stall: Stall = field(default_factory=lambda: Stall(0.0))
    seen: int = -1
    """How many turns the last look found."""

    def depends_on(self, name: str) -> bool:
        """Return whether it needs the topic, group or transactional id."""
        return name in self.needs

    def waits_for(self, name: str) -> bool:
        """Return whether a transaction that has not ended in the topic, or for the group, keeps it from working."""
        return name in self.needs and name not in self.only_writes


@dataclass(slots=True)
class FollowedPartition:
    stall: Stall
    waiting: WaitingTime = field(default_factory=WaitingTime)
    done: int = -1
    found: int = -1
    """A record was found at or after this offset."""
    look_at: float = 0.0
    """When the next look for a record is due."""
    empty_until: int = -1
    """No record was found before this offset."""
    seconds: float = 0.0
    records: int = 0
    is_own: bool = False
    """Whether this process reads it, or should: no other member of the group does."""
