"""How the role ``alerts`` works: the theory of its two loops, and what both need.

THEORY OF OPERATION: alerts exactly once

Records of one group are spread over the partitions of the flows, so no single reader sees them all. So there are two
loops:

1. The *count loop* (:mod:`.count_loop`) reads ``<prefix>.flows.denied`` and ``<prefix>.status``, sharing the partitions
   with the other workers. Every 0.1 s it writes how much more of each group there was (a delta) to
   ``<prefix>.alerts.deltas``, in the partition of the group.
2. The *engine loop* (:mod:`.engine_loop`) reads the deltas. All deltas of a group reach the same worker, which keeps
   the windows in memory, writes changes of alerts to ``<prefix>.alerts``, and the state that must outlive it to
   ``<prefix>.alerts.state``.
3. Both write their output and the offsets of their input in one Kafka transaction. A worker that is killed before the
   commit leaves nothing visible, and its successor reads the same input again; after the commit the input is done. A
   worker that was frozen and continues later is fenced: the broker refuses its commit.
4. Memory is rebuilt when partitions are assigned. The count loop reads the last minute of flows again, and at least
   the last 10,000 of each partition, only to recognize repeats. The engine loop reads the state, then the deltas of one
   window's length, marked as replayed.
5. When a transaction fails, or the rules change, the loop raises TransactionAbortedError: its owner makes a new
   consumer and producer, and everything starts from what is committed (step 4).

Example: 60 denied packets of shop/web, rule ``above: {threshold: 50}``. The record is in partition 3 of the flows at
offset 17. One transaction of the count loop writes ``{shop/web: {second: 60}}`` to partition 5 of the deltas and
commits offset 18. One transaction of the engine loop writes the firing alert, its state in partition 5, and its offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from streams.alerts.model import AlertRule
from streams.kafka.exactly_once import Write
from streams.kafka.records import Record

MAX_RECORDS_PER_STEP: Final = 5000
POLL_S: Final = 0.1


class Transactions(Protocol):
    """See :class:`streams.kafka.exactly_once.ExactlyOnce`."""

    def take(self, max_records: int, wait_s: float) -> list[Record]: ...

    def is_replayed(self, record: Record) -> bool: ...

    def commit(self, writes: Sequence[Write]) -> None: ...


class Rules(Protocol):
    """The rules in force. ``current`` is replaced by another object when they change."""

    @property
    def current(self) -> Sequence[AlertRule]: ...
