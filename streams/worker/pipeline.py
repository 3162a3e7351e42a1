"""Batches in, their records out: decode, check, enrich, route, account. Knows no Faust, and Kafka by its output only.

Batches that wait together are enriched and sent as one array: ten rows by themselves cost four times as much. Each
is still an input of its own, which is acknowledged, told of, or made a dead letter for itself.

Rows that the cluster's index may be able to name better in a moment wait for it (:mod:`streams.worker.pending`); their
batch
is not closed before they are out.

Nothing here lets an exception out for the sake of what a batch holds: what cannot be taken goes to the dead-letter
topic as it came, with the reason, and the worker goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

import orjson
import structlog

from enrich.render.enricher import Records
from enrich.render.merged_batch import MergedBatch, merge
from enrich.render.peer_lookup import Lookup
from enrich.wire.batch import Batch, BatchError, Header, decode_batch
from enrich.wire.topics import Topics
from streams.kafka.record_columns import RecordColumns
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import TrackedInput
from streams.worker.losses import Loss, Losses
from streams.worker.pending import Looker, PendingVerdicts

log = structlog.get_logger("kubeweir.streams")

_FULL_WAIT_S: Final = 0.01


class Producer(Protocol):
    """Where records go; see :class:`streams.kafka.producer.RecordProducer`."""

    def offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> bool: ...

    def offer_all(self, topic: str, outgoing: RecordColumns, deliveries: Sequence[Any], start: int) -> int: ...


class Routing(Protocol):
    """Where else records go; see :class:`streams.routes.topics.Routing`."""

    def route(self, records: Records) -> Iterable[tuple[str, RecordColumns]]: ...

    async def wait_until_ready(self, topic: str) -> None: ...


class Renderer(Looker, Protocol):
    """Makes records; see :class:`enrich.render.enricher.Enricher`."""

    def records(self, batch: MergedBatch, lookup_result: Lookup | None = None) -> Records: ...

    def mark_ambiguous(self, batch: MergedBatch, found: Lookup, until_ns: int) -> None: ...


class _Input(NamedTuple):
    """A batch that can be read, and what it is accounted to."""

    tracked: TrackedInput
    value: bytes
    batch: Batch


class Pipeline:
    """Takes the batches of a worker, one after the other."""

    def __init__(
        self,
        topics: Topics,
        cluster_id: str,
        enricher: Renderer,
        node_of: Callable[[str], str],
        output: Producer,
        metrics: EnrichMetrics,
        worker: str,
        pending: PendingVerdicts,
    ) -> None:
        """``node_of``: the node of the pod with a UID, empty where it is not known."""
        self.routing: Routing | None = None
        """Where records go besides."""
        self._topics, self._cluster_id = topics, cluster_id
        self._enricher, self._node_of, self._output = enricher, node_of, output
        self._metrics, self._worker = metrics, worker
        self._losses = Losses()
        self._pending = pending
        self._turn = asyncio.Lock()
        """Rows of a pod go out in their order: a batch, or what waited, but not both at a time."""

    async def take(self, inputs: Sequence[tuple[TrackedInput, bytes | None]]) -> None:
        """Send all that comes of some raw records; then they are closed."""
        self._metrics.batches.inc(len(inputs))
        async with self._turn:
            await self._take(inputs)
        for tracked, _ in inputs:
            if not self._pending.holds(tracked):
                tracked.close()

    async def release(self) -> None:
        """Send what has waited for long enough."""
        if not len(self._pending):
            return
        async with self._turn:
            for released in self._pending.release():
                verdicts, late, full = len(released.batch.verdicts), released.late, released.full
                self._metrics.pending_verdicts.labels("full" if full else "settled").inc(verdicts - late)
                self._metrics.pending_verdicts.labels("full" if full else "late").inc(late)
                await self._send_released(released.inputs, released.batch)
                for tracked in self._pending.done(released):
                    tracked.close()

    async def _send_released(self, inputs: Sequence[TrackedInput], batch: MergedBatch) -> None:
        try:
            records = self._rendered(batch)
        except Exception as error:
            log.exception("rows that waited could not be enriched", verdicts=len(batch.verdicts))
            for place, _, _ in batch.parts():
                value = batch.batch(place).encode()
                await self._bury(inputs[place], value, "enrich_failed", f"{type(error).__name__}: {error}")
        else:
            await self._send_records(inputs, records)

    async def _take(self, inputs: Sequence[tuple[TrackedInput, bytes | None]]) -> None:
        good: list[_Input] = []
        for tracked, value in inputs:
            try:
                good.append(_Input(tracked, value or b"", self._decode(value)))
            except BatchError as error:
                await self._bury(tracked, value or b"", error.reason, str(error))
            except Exception as error:
                await self._bury_failed(tracked, value or b"", error)
        if good:
            await self._enrich(good)

    async def _enrich(self, inputs: Sequence[_Input]) -> None:
        tracked = [one.tracked for one in inputs]
        try:
            records = self._render(tracked, merge(*(one.batch for one in inputs)))
        except Exception as error:
            self._pending.abandon(tracked)
            if len(inputs) == 1:
                await self._bury_failed(tracked[0], inputs[0].value, error)
            else:
                # One of them is at fault: it is to be found, and the others are not to suffer for it.
                for one in inputs:
                    await self._enrich([one])
            return
        await self._send_records(tracked, records)
        for one in inputs:
            await self._account(one.tracked, one.batch.header)

    async def _bury_failed(self, tracked: TrackedInput, value: bytes, error: Exception) -> None:
        # A bug of ours, not the batch's fault; but the same bytes would end every worker in turn.
        log.error("a batch could not be enriched", partition=tracked.partition, offset=tracked.offset, exc_info=error)
        await self._bury(tracked, value, "enrich_failed", f"{type(error).__name__}: {error}")

    def _render(self, inputs: Sequence[TrackedInput], batch: MergedBatch) -> Records:
        """Return the records of the verdicts that need not wait."""
        if not len(batch.verdicts):
            return self._enricher.records(batch)
        # Read before the lookup: the index may be synced further meanwhile, the lookup is not.
        until_ns = self._pending.until_ns()
        found = self._enricher.lookup(batch)
        now = self._pending.split(inputs, batch, found.unsettled, until_ns)
        if now is not None:
            batch, found = batch.pick(now), found.pick(now)
        self._enricher.mark_ambiguous(batch, found, until_ns)
        return self._enricher.records(batch, found)

    def _rendered(self, batch: MergedBatch) -> Records:
        """Return the records of verdicts that have waited."""
        until_ns = self._pending.until_ns()
        found = self._enricher.lookup(batch)
        self._enricher.mark_ambiguous(batch, found, until_ns)
        return self._enricher.records(batch, found)

    def forget(self, partitions: Iterable[int]) -> None:
        """Another worker has these now."""
        gone = tuple(partitions)
        self._losses.forget(gone)
        self._pending.forget(gone)

    async def expired(self, tracked: TrackedInput, batches: int) -> None:
        """Retention removed so many batches before this one, unread."""
        self._metrics.expired.inc(batches)
        log.error("batches expired before they were read", partition=tracked.partition, batches=batches)
        told = {"type": "expired", "partition": tracked.partition, "batches": batches}
        await self._tell(tracked, self._worker, told)

    async def bury_refused(self, tracked: TrackedInput, topic: str, value: bytes, error: str) -> None:
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

    async def _send_records(self, inputs: Sequence[TrackedInput], records: Records) -> None:
        if not records.values:
            return
        self._metrics.read_verdicts.inc(len(records.values))
        if records.columns is not None:
            self._metrics.verdicts.count(records.columns.templates, records.columns.template)
        every = RecordColumns(records.keys, records.values, records.times_ms, records.owners)
        await self._send_all(inputs, self._topics.flows.name, every)
        if any(records.denied):
            await self._send_all(inputs, self._topics.denied.name, every.pick(records.denied))
        if self.routing is not None:
            for topic, routed in self.routing.route(records):
                await self.routing.wait_until_ready(topic)
                await self._send_all(inputs, topic, routed)

    async def _send_all(self, inputs: Sequence[TrackedInput], topic: str, outgoing: RecordColumns) -> None:
        for owner, records in Counter(outgoing.owners).items():
            inputs[owner].expect(records)
        callbacks = [one.on_delivery for one in inputs]
        deliveries = [callbacks[owner] for owner in outgoing.owners]
        sent = self._output.offer_all(topic, outgoing, deliveries, 0)
        while sent < len(deliveries):
            await asyncio.sleep(_FULL_WAIT_S)
            sent = self._output.offer_all(topic, outgoing, deliveries, sent)

    async def _send(
        self, tracked: TrackedInput, topic: str, key: bytes, value: bytes, at: int, headers: Any = None
    ) -> None:
        tracked.expect()
        # librdkafka's queue tells nobody when it has room again.
        while not self._output.offer(topic, key, value, at, tracked.on_delivery, headers):  # noqa: ASYNC110 - see above
            await asyncio.sleep(_FULL_WAIT_S)

    async def _bury(self, tracked: TrackedInput, value: bytes, reason: str, error: str) -> None:
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

    async def _account(self, tracked: TrackedInput, header: Header) -> None:
        about = {"cluster": header.cluster, "node": header.node, "ring": header.ring}
        for loss in self._losses.see(tracked.partition, header):
            self._count(loss)
            log.warning(
                "verdicts lost", **about, kind=loss.kind, reason=loss.reason, verdicts=loss.verdicts, first=loss.first
            )
            told: dict[str, Any] = {"type": loss.kind, "reason": loss.reason, "verdicts": loss.verdicts}
            if loss.first is not None:
                told["first"] = loss.first
            await self._tell(tracked, header.node, {**told, **about})
        if not header.verdicts:
            self._metrics.heartbeats.inc()
            await self._tell(tracked, header.node, {"type": "heartbeat", "next": header.first, **about})

    def _count(self, loss: Loss) -> None:
        if loss.kind == "gap":
            self._metrics.gap_verdicts.inc(loss.verdicts)
        else:
            self._metrics.lost_verdicts.labels(loss.reason).inc(loss.verdicts)

    async def _tell(self, tracked: TrackedInput, key: str, told: dict[str, Any]) -> None:
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
