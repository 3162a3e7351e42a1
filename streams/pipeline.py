"""One batch in, its records out: decode, check, enrich, route, account. Knows no Faust, and Kafka by its output only.

Rows that the cluster's index may be able to name better in a moment wait for it (:mod:`streams.holding`); their batch
is not closed before they are out.

Nothing here lets an exception out for the sake of what a batch holds: what cannot be taken goes to the dead-letter
topic as it came, with the reason, and the worker goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import compress
from typing import Any, Final, Protocol

import orjson
import structlog

from enrich.enricher import Looked, Records
from enrich.records import Batch, BatchError, Header, decode_batch
from enrich.topics import Topics
from streams.delivery import Tracked
from streams.holding import Holding, Looker
from streams.losses import Loss, Losses
from streams.metrics import EnrichMetrics

log = structlog.get_logger("kubeweir.streams")

_FULL_WAIT_S: Final = 0.01


class Output(Protocol):
    """Where records go; see :class:`streams.kafka.Output`."""

    def offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> bool: ...

    def offer_all(
        self, topic: str, rows: Sequence[tuple[bytes | None, bytes, int]], start: int, on_delivery: Any
    ) -> int: ...


class Routing(Protocol):
    """Where else records go; see :class:`streams.routing.Routing`."""

    def of(self, records: Records) -> Iterable[tuple[str, Sequence[tuple[bytes | None, bytes, int]]]]: ...

    async def ready(self, topic: str) -> None: ...


class Renderer(Looker, Protocol):
    """Makes records; see :class:`enrich.enricher.Enricher`."""

    def records(self, batch: Batch, looked: Looked | None = None) -> Records: ...


class Pipeline:
    """Takes the batches of a worker, one after the other."""

    def __init__(
        self,
        topics: Topics,
        cluster_id: str,
        enricher: Renderer,
        node_of: Callable[[str], str],
        output: Output,
        metrics: EnrichMetrics,
        worker: str,
        holding: Holding,
    ) -> None:
        """``node_of``: the node of the pod with a UID, empty where it is not known."""
        self.routing: Routing | None = None
        """Where records go besides."""
        self._topics, self._cluster_id = topics, cluster_id
        self._enricher, self._node_of, self._output = enricher, node_of, output
        self._metrics, self._worker = metrics, worker
        self._losses = Losses()
        self._holding = holding
        self._turn = asyncio.Lock()
        """Rows of a pod go out in their order: a batch, or what waited, but not both at a time."""

    async def take(self, tracked: Tracked, value: bytes | None) -> None:
        """Send all that comes of one raw record; then it is closed."""
        self._metrics.batches.inc()
        async with self._turn:
            await self._take(tracked, value)
        if not self._holding.holds(tracked):
            tracked.close()

    async def release(self) -> None:
        """Send what has waited for long enough."""
        if not len(self._holding):
            return
        async with self._turn:
            for tracked, batch, late, full in self._holding.release():
                self._metrics.held_rows.labels("full" if full else "settled").inc(len(batch.rows) - late)
                self._metrics.held_rows.labels("full" if full else "late").inc(late)
                await self._send_released(tracked, batch)
                if self._holding.done(tracked):
                    tracked.close()

    async def _send_released(self, tracked: Tracked, batch: Batch) -> None:
        try:
            records = self._rendered(batch)
        except Exception as error:
            log.exception("rows that waited could not be enriched", partition=tracked.partition, offset=tracked.offset)
            await self._bury(tracked, batch.encode(), "enrich_failed", f"{type(error).__name__}: {error}")
        else:
            await self._send_records(tracked, records)

    async def _take(self, tracked: Tracked, value: bytes | None) -> None:
        try:
            batch = self._decode(value)
            records = self._render(tracked, batch) if len(batch.rows) else None
        except BatchError as error:
            await self._bury(tracked, value or b"", error.reason, str(error))
        except Exception as error:
            # A bug of ours, not the batch's fault; but the same bytes would end every worker in turn.
            log.exception("a batch could not be enriched", partition=tracked.partition, offset=tracked.offset)
            self._holding.abandon(tracked)
            await self._bury(tracked, value or b"", "enrich_failed", f"{type(error).__name__}: {error}")
        else:
            if records is not None:
                await self._send_records(tracked, records)
            await self._account(tracked, batch.header)

    def _render(self, tracked: Tracked, batch: Batch) -> Records:
        """Records of the rows that need not wait."""
        looked = self._enricher.look(batch)
        now = self._holding.split(tracked, batch, looked)
        return self._enricher.records(batch, looked) if now is None else self._rendered(now)

    def _rendered(self, batch: Batch) -> Records:
        """Rows of which the index does not know all are named with doubt."""
        return self._enricher.records(batch, self._enricher.look(batch, self._holding.until_ns()))

    def forget(self, partitions: Iterable[int]) -> None:
        """Another worker has these now."""
        gone = tuple(partitions)
        self._losses.forget(gone)
        self._holding.forget(gone)

    async def expired(self, tracked: Tracked, batches: int) -> None:
        """Retention removed so many batches before this one, unread."""
        self._metrics.expired.inc(batches)
        log.error("batches expired before they were read", partition=tracked.partition, batches=batches)
        told = {"type": "expired", "partition": tracked.partition, "batches": batches}
        await self._tell(tracked, self._worker, told)

    async def bury_refused(self, tracked: Tracked, topic: str, value: bytes, error: str) -> None:
        """A record that Kafka refuses for what it is."""
        await self._bury(tracked, value, "refused", f"{topic}: {error}")
        tracked.withdraw()

    def _decode(self, value: bytes | None) -> Batch:
        if value is None:
            raise BatchError("no_value", "a record without a value")
        batch = decode_batch(value)
        header = batch.header
        if self._cluster_id and header.cluster != self._cluster_id:
            raise BatchError("foreign_cluster", f"of cluster {header.cluster!r}, this is {self._cluster_id!r}")
        for ref in header.endpoints.values():
            node = self._node_of(ref.uid)
            if node and node != header.node:
                raise BatchError(
                    "wrong_node", f"pod {ref.namespace}/{ref.pod} is on {node!r}, the batch says {header.node!r}"
                )
        return batch

    async def _send_records(self, tracked: Tracked, records: Records) -> None:
        self._metrics.rows.inc(len(records.values))
        if records.facts is not None:
            self._metrics.verdicts.count(records.facts.templates)
        rows = list(zip(records.keys, records.values, records.times_ms, strict=True))
        await self._send_all(tracked, self._topics.flows.name, rows)
        if any(records.denied):
            await self._send_all(tracked, self._topics.denied.name, list(compress(rows, records.denied)))
        if self.routing is not None:
            for topic, routed in self.routing.of(records):
                await self.routing.ready(topic)
                await self._send_all(tracked, topic, routed)

    async def _send_all(self, tracked: Tracked, topic: str, rows: Sequence[tuple[bytes | None, bytes, int]]) -> None:
        tracked.expect(len(rows))
        sent = self._output.offer_all(topic, rows, 0, tracked.on_delivery)
        while sent < len(rows):
            await asyncio.sleep(_FULL_WAIT_S)
            sent = self._output.offer_all(topic, rows, sent, tracked.on_delivery)

    async def _send(self, tracked: Tracked, topic: str, key: bytes, value: bytes, at: int, headers: Any = None) -> None:
        tracked.expect()
        # librdkafka's queue tells nobody when it has room again.
        while not self._output.offer(topic, key, value, at, tracked.on_delivery, headers):  # noqa: ASYNC110 - see above
            await asyncio.sleep(_FULL_WAIT_S)

    async def _bury(self, tracked: Tracked, value: bytes, reason: str, error: str) -> None:
        topic, partition, offset = self._topics.raw.name, str(tracked.partition), str(tracked.offset)
        self._metrics.dead.labels(reason).inc()
        log.warning("dead letter", reason=reason, topic=topic, partition=partition, offset=offset, error=error)
        headers = [
            ("reason", reason.encode()),
            ("topic", topic.encode()),
            ("partition", partition.encode()),
            ("offset", offset.encode()),
            ("error", error.encode()),
        ]
        key = f"{topic}/{partition}/{offset}".encode()
        await self._send(tracked, self._topics.dead.name, key, value, _now_ms(), headers)

    async def _account(self, tracked: Tracked, header: Header) -> None:
        about = {"cluster": header.cluster, "node": header.node, "ring": header.ring}
        for loss in self._losses.see(tracked.partition, header):
            self._count(loss)
            log.warning("verdicts lost", **about, kind=loss.kind, reason=loss.reason, rows=loss.rows, first=loss.first)
            told: dict[str, Any] = {"type": loss.kind, "reason": loss.reason, "rows": loss.rows}
            if loss.first is not None:
                told["first"] = loss.first
            await self._tell(tracked, header.node, {**told, **about})
        if not header.rows:
            self._metrics.heartbeats.inc()
            await self._tell(tracked, header.node, {"type": "heartbeat", "next": header.first, **about})

    def _count(self, loss: Loss) -> None:
        if loss.kind == "gap":
            self._metrics.gap_rows.inc(loss.rows)
        else:
            self._metrics.lost_rows.labels(loss.reason).inc(loss.rows)

    async def _tell(self, tracked: Tracked, key: str, told: dict[str, Any]) -> None:
        """A record on the status topic, in flight with the batch that told it."""
        now = time.time_ns()
        seconds, nanos = divmod(now, 1_000_000_000)
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"
        record = {"schema": 1, "timestamp": at, "worker": self._worker, **told}
        await self._send(tracked, self._topics.status.name, key.encode(), orjson.dumps(record), now // 1_000_000)


def event_time_ms(value: bytes) -> int:
    """When a record of ours says that it happened, never later than now. librdkafka forgets the time of a record that
    was refused, so it is read back."""
    # Of JSON lines, the first.
    at = datetime.fromisoformat(orjson.loads(value.partition(b"\n")[0])["timestamp"])
    return min(int(at.timestamp() * 1000), _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
