"""The count loop: denied flows and losses in, deltas out. See :mod:`streams.alerts.loops` for how the loops work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from enrich.wire.whose import cluster_named, is_foreign
from streams.alerts.counting import ParsedFlow, RecordCounter
from streams.alerts.deduplicate import Deduplicator
from streams.alerts.deltas import encode
from streams.alerts.loops import MAX_RECORDS_PER_STEP, POLL_S, Rules, Transactions
from streams.alerts.model import AlertRule
from streams.kafka.exactly_once import Write
from streams.kafka.records import Record, TopicAndPartition

log = structlog.get_logger("kubeweir.streams")

_COMMIT_INTERVAL_S: Final = 0.1
"""Between two transactions, so that each carries some records."""
_DEDUPLICATION_MS: Final = 60_000
"""A repeat follows its original within this time: the successor of a killed worker starts at once."""
_DEDUPLICATION_RECORDS: Final = 10_000
"""Kafka's time of a record is its verdict's, which may be hours old when Kafka or a worker was away. So this many
records of a partition are remembered, however old they are: a killed enricher has repeated fewer denies of one."""


class CountLoop:
    """Counts records by rule and group."""

    replay_records = _DEDUPLICATION_RECORDS
    records_read = 0
    """It reads nothing but what it takes step by step; see :class:`streams.alerts.engine_loop.EngineLoop`."""

    def __init__(
        self,
        rules: Rules,
        denied: str,
        deltas: tuple[str, int],
        send_dead_letter: Callable[[Record, str, str], bool],
        count: Callable[[str, int], None],
        cluster: str = "",
    ) -> None:
        """``denied`` is the topic of denied flows; records of any other topic are status records. ``deltas`` is a topic
        and its number of partitions. ``count`` is called with records, repeats, deltas, bad_records or foreign, and
        a number. ``cluster``: the only cluster whose records are counted; empty: every cluster's."""
        self._rules, self._denied, self._deltas = rules, denied, deltas
        self._send_dead_letter, self._count, self._cluster = send_dead_letter, count, cluster
        self._deduplicators: dict[int, Deduplicator] = {}
        self._current: Sequence[AlertRule] = ()
        self._counter = RecordCounter(())

    @staticmethod
    def replay_from_ms(topic: str) -> int:
        """Return the time from which a new owner of a partition reads its records again."""
        del topic
        return int(time.time() * 1000) - _DEDUPLICATION_MS

    def on_assigned(self, partitions: Sequence[TopicAndPartition]) -> None:
        """Start reading these partitions, and no others."""
        self._deduplicators = {partition: Deduplicator() for topic, partition in partitions if topic == self._denied}

    def step(self, transactions: Transactions) -> None:
        """Read some records and commit their deltas. Raises TransactionAbortedError, StopServiceError."""
        started = time.monotonic()
        records = transactions.take(MAX_RECORDS_PER_STEP, POLL_S)
        if not records:
            return
        if self._rules.current is not self._current:
            self._current = self._rules.current
            self._counter = RecordCounter(self._current)
        new = [record for record in records if self._is_new(transactions, record)]
        for record in new:
            self._take(record)
        deltas = self._counter.drain()
        topic, partitions = self._deltas
        if new:
            key = self._cluster.encode() or None
            transactions.commit([Write(topic, key, value, number) for number, value in encode(deltas, partitions)])
        self._count("records", len(new))
        self._count("deltas", len(deltas))
        time.sleep(max(0.0, _COMMIT_INTERVAL_S - (time.monotonic() - started)))

    def _is_new(self, transactions: Transactions, record: Record) -> bool:
        """Return whether the record must be counted. A replayed one is only shown to the deduplicator."""
        if not transactions.is_replayed(record):
            return True
        if record.topic == self._denied:
            try:
                self._is_repeat(record, self._counter.read_flow(record.value))
            except ValueError:
                log.debug("a bad record was reported when it was first read", offset=record.offset)
        return False

    def _take(self, record: Record) -> None:
        if record.unread:
            self._refuse(record, "too_large", record.unread)
            return
        try:
            if record.topic != self._denied:
                if self._is_foreign(record):
                    self._count("foreign", 1)
                else:
                    self._counter.count_status(record.value)
                return
            flow = self._counter.read_flow(record.value)
            if is_foreign(flow.record_class.cluster, self._cluster):
                self._count("foreign", 1)
            elif self._is_repeat(record, flow):
                self._count("repeats", 1)
            else:
                self._counter.count_flow(flow)
        except ValueError as error:
            if self._is_foreign(record):
                # Another cluster may run another version of this program.
                self._count("foreign", 1)
                return
            self._refuse(record, "no_record", str(error))

    def _refuse(self, record: Record, reason: str, error: str) -> None:
        self._count("bad_records", 1)
        log.warning("dead letter", reason=reason, topic=record.topic, offset=record.offset, error=error)
        self._send_dead_letter(record, reason, error)

    def _is_foreign(self, record: Record) -> bool:
        return bool(self._cluster) and is_foreign(cluster_named(record.value), self._cluster)

    def _is_repeat(self, record: Record, flow: ParsedFlow) -> bool:
        return self._deduplicators.setdefault(record.partition, Deduplicator()).is_repeat(flow)
