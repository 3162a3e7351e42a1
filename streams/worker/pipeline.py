"""What happens to a batch: decode, check, look up, wait, render, send, account. Without Faust and librdkafka.

Theory of operation. :meth:`Pipeline.take` gets the raw inputs that the worker has read, say three batches of 400
verdicts each, and for all of them together:

1. Decodes and checks each batch. One that cannot be decoded, or claims pods of another node, becomes a dead letter, and
   the others go on. One of another cluster that shares the topics is skipped: that cluster's workers take it.
2. Merges the rest into one array. Ten verdicts enriched by themselves cost four times as much each as a thousand do.
3. Looks up the peer of every verdict in the cluster's index. If the index may be able to name some of them better
   in a moment, these verdicts wait in :class:`streams.worker.pending.PendingVerdicts`; the others continue at once.
4. Renders one record per verdict, and sends the records: all to the topic of flows, denied ones to the topic of denied
   flows too, and any that a route takes to the route's topic. Denials that are not logged go to the topic of denied
   flows only, for alerts.
5. Sends the records of ended connections, and accounts on the status topic for losses, cuts and heartbeats.
6. Closes each input, unless verdicts of it wait. :meth:`Pipeline.release` sends those later and closes it then.

An input that is closed is acknowledged when Kafka has every record made from it (:mod:`streams.worker.inflight`). No
exception caused by the content of a batch leaves this module: the batch goes to the dead-letter topic unchanged, with
the reason, and the worker goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import structlog

from enrich.render.enricher import Records
from enrich.render.merged_batch import MergedBatch, merge
from enrich.wire.batch import Batch, BatchError
from enrich.wire.topics import Topics
from streams.kafka.dead_letter_form import Headers
from streams.kafka.record_columns import RecordColumns
from streams.metrics.roles import EnrichMetrics
from streams.worker.accounting import account, statements
from streams.worker.checkpoint import Checkpoint
from streams.worker.clock_skews import ClockSkews
from streams.worker.decoding import Decoder
from streams.worker.ended import EndedSender
from streams.worker.further import PairsOfRecords, Routing
from streams.worker.inflight import TrackedInput
from streams.worker.losses import Loss, Losses
from streams.worker.pending import PendingVerdicts
from streams.worker.rendering import Rendered, Renderer, look_up_finally, render
from streams.worker.ring_positions import RingPositions
from streams.worker.sender import Producer, Sender, reports_of
from streams.worker.unread import Unread, Value

log = structlog.get_logger("kubeweir.streams")

_MAX_ERROR_CHARACTERS: Final = 1000


class _DecodedInput(NamedTuple):
    tracked: TrackedInput
    value: bytes
    batch: Batch


class Pipeline:
    """Processes the batches of one worker, in the order in which they were read."""

    def __init__(
        self,
        topics: Topics,
        cluster_id: str,
        enricher: Renderer,
        node_of: Callable[[str], str],
        producer: Producer,
        metrics: EnrichMetrics,
        worker: str,
        pending: PendingVerdicts,
    ) -> None:
        """``cluster_id``: the only cluster whose batches are taken, empty for any. ``node_of`` returns the node of
        the pod with a UID, empty if it is not known. ``worker`` names this process in status records."""
        self.routing: Routing | None = None
        self.pairs: PairsOfRecords | None = None
        self.positions = RingPositions()
        self._topics, self._enricher = topics, enricher
        self._own_cluster = {"cluster": cluster_id} if cluster_id else {}
        self._decoder = Decoder(cluster_id, node_of, metrics)
        self._worker, self._pending, self._metrics = worker, pending, metrics
        self._sender = Sender(producer, topics, metrics, worker)
        self._ended = EndedSender(enricher, self._sender, topics.ended.name, metrics)
        self._losses, self._clocks = Losses(), ClockSkews(metrics)
        self._turn = asyncio.Lock()
        """Held by :meth:`take` or :meth:`release` while it sends, so that the records of a pod stay in order."""

    async def take(self, inputs: Sequence[tuple[TrackedInput, Value]]) -> None:
        """Process raw records, and close each input of which no verdict must wait."""
        self._metrics.batches.inc(len(inputs))
        async with self._turn:
            await self._process(await self._sender.without_unread(inputs))
        for tracked, _ in inputs:
            if not self._pending.has_pending(tracked):
                tracked.close()

    async def release(self) -> None:
        """Send the pending verdicts that need not wait any longer, and close the inputs that are then complete."""
        if not len(self._pending):
            return
        async with self._turn:
            for released in self._pending.release():
                verdicts, late, full = len(released.batch.verdicts), released.late, released.full
                self._metrics.pending_verdicts.labels("full" if full else "settled").inc(verdicts - late)
                self._metrics.pending_verdicts.labels("full" if full else "late").inc(late)
                await self._send_released(released.inputs, released.batch)
                for tracked in self._pending.mark_sent(released):
                    tracked.close()

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop what is kept of revoked partitions: another worker processes them now."""
        revoked = tuple(partitions)
        for kept in (self._losses, self.positions, self._pending):
            kept.forget(revoked)

    async def take_over(self, tracked: TrackedInput, committed: int | None, checkpoint: Checkpoint | None) -> None:
        """Begin with what the former owner of a partition has finished, before its first input, ``tracked``.

        ``committed`` is the offset from which on the partition is read, if anybody has committed one."""
        partition = tracked.partition
        self.positions.take_over(partition, checkpoint, is_first=committed is None)
        if checkpoint is not None:
            is_current = committed is None or committed <= checkpoint.offset
            self._losses.take_over(partition, checkpoint, is_current=is_current)
        elif committed is not None:
            self._metrics.unknown_gaps.inc()
            log.warning("a gap before this offset would not be noticed: there is no checkpoint of what was finished",
                        partition=partition, offset=committed)  # fmt: skip
            status = {"type": "gap_unknown", "reason": "no_checkpoint", "partition": partition}
            await self._send_own_status(tracked, status)

    def finish(self, tracked: TrackedInput) -> None:
        """Count an input as finished, and publish the tally that its batch has: all that it is about is finished."""
        if (status := self.positions.finish(tracked)) is not None:
            self._sender.offer_status(status["node"], status)
        if self.pairs is not None:
            self.pairs.finish(tracked)

    def count_only(self, tracked: TrackedInput, value: Value) -> None:
        """Count the pairs of an input of which Kafka has all records already, and close it."""
        try:
            batch = None if isinstance(value, Unread) else self._decoder.decode(value)
            if batch is not None and len(batch.verdicts) and self.pairs is not None:
                merged = merge(batch)
                found = look_up_finally(self._enricher, merged, self._pending.until_ns())
                self.pairs.count([tracked], self._enricher.records(merged, found))
        except BatchError:
            pass  # a dead letter already
        except Exception as error:
            tracked.uncounted = True
            log.error("pairs of a batch could not be counted", partition=tracked.partition, exc_info=error)
        tracked.close()

    def report(self, status: dict[str, Any]) -> None:
        """Send a record of this worker to the status topic that nothing waits for."""
        self._sender.offer_status(self._worker, status | self._own_cluster)

    async def report_expired(self, tracked: TrackedInput, batches: int) -> None:
        """Report that retention removed batches just before this input, unread."""
        self._metrics.expired_batches.inc(batches)
        self.positions.note_expired(tracked.partition)
        found = {"partition": tracked.partition, "batches": batches}
        log.error("batches expired before they were read", **found)
        await self._send_own_status(tracked, {"type": "expired", **found})

    async def resend_dead_letter(self, tracked: TrackedInput, key: bytes, value: bytes, headers: Headers) -> None:
        """Send a dead letter that Kafka refuses once more, cut to what every broker takes."""
        await self._sender.resend_cut(tracked, key, value, headers)

    async def replace_refused(self, tracked: TrackedInput, topic: str, value: bytes, error: str) -> None:
        """Send a dead letter in place of a record that Kafka refuses for its content."""
        await self._sender.send_dead_letter(tracked, value, "refused", f"{topic}: {error}", output=topic)
        tracked.refused += reports_of(self._topics, topic, value) != "on_delivery"
        tracked.withdraw()

    async def _process(self, inputs: Sequence[tuple[TrackedInput, bytes | None]]) -> None:
        decoded: list[_DecodedInput] = []
        for tracked, value in inputs:
            try:
                if (batch := self._decoder.decode(value)) is not None:
                    decoded.append(_DecodedInput(tracked, value or b"", batch))
            except BatchError as error:
                await self._sender.send_dead_letter(tracked, value or b"", error.reason, str(error))
            except Exception as error:
                await self._on_bug(tracked, value or b"", error)
        if decoded:
            await self._enrich(decoded)

    async def _enrich(self, inputs: Sequence[_DecodedInput]) -> None:
        tracked = [one.tracked for one in inputs]
        try:
            rendered = self._render(tracked, merge(*(one.batch for one in inputs)))
        except Exception as error:
            self._pending.abandon(tracked)
            if len(inputs) > 1:
                # One of the batches causes it. Enriched one by one, the others do not suffer.
                for one in inputs:
                    await self._enrich([one])
                return
            await self._on_bug(tracked[0], inputs[0].value, error)
            tracked[0].dead += len(inputs[0].batch.verdicts)
        else:
            await self._send_rendered(tracked, rendered)
        for one in inputs:
            try:
                await self._ended.send(one.tracked, one.batch, self._pending.until_ns())
            except Exception as error:
                await self._on_bug(one.tracked, one.value, error)
            try:
                await self._account(one.tracked, one.batch)
            except Exception as error:
                await self._on_bug(one.tracked, one.value, error)

    async def _on_bug(self, tracked: TrackedInput, value: bytes, error: Exception) -> None:
        # This is a bug of ours, not a fault of the batch. But left unacknowledged, the batch would end every worker.
        log.error("a batch could not be enriched", partition=tracked.partition, offset=tracked.offset, exc_info=error)
        await self._sender.send_dead_letter(tracked, value, "enrich_failed", f"{type(error).__name__}: {error}")

    def _render(self, inputs: Sequence[TrackedInput], batch: MergedBatch) -> Rendered:
        """Keep the verdicts that must wait; return the records of the others."""
        if not len(batch.verdicts):
            return Rendered(self._enricher.records(batch))
        # Read before the lookup: what the index learns during the lookup is not in its result.
        until_ns, ready_ns = self._pending.until_ns(), self._pending.ready_ns()
        found = self._enricher.lookup(batch)
        if found.unsettled is None and not len(self._pending) and batch.wall.max() <= ready_ns:
            return render(self._enricher, batch, found)  # by far the most frequent case
        ready = self._pending.split(inputs, batch, found, ready_ns)
        if ready is not None:
            batch, found = batch.pick(ready), found.pick(ready)
        self._enricher.mark_ambiguous(batch, found, until_ns)
        return render(self._enricher, batch, found)

    async def _send_released(self, inputs: Sequence[TrackedInput], batch: MergedBatch) -> None:
        try:
            found = look_up_finally(self._enricher, batch, self._pending.until_ns())
            rendered = render(self._enricher, batch, found)
        except Exception as error:
            log.exception("pending verdicts could not be enriched", verdicts=len(batch.verdicts))
            for place, header, _ in batch.parts():
                part, text = batch.batch(place), f"{type(error).__name__}: {error}"
                await self._sender.send_dead_letter(inputs[place], part.encode(), "enrich_failed", text)
                inputs[place].dead += len(part.verdicts)
                lost = Loss("lost", "enrich_failed", len(part.verdicts), int(part.numbers()[0]))
                await self._sender.send_status(inputs[place], header.node, account(lost, header, self._metrics))
        else:
            await self._send_rendered(inputs, rendered)

    async def _send_rendered(self, inputs: Sequence[TrackedInput], rendered: Rendered) -> None:
        if self.pairs is not None:
            for records in rendered:
                if records is not None:
                    self.pairs.count(inputs, records)
        if rendered.logged.values:
            await self._send_logged(inputs, rendered.logged)
        if rendered.unlogged is not None:
            unlogged = self._counted(rendered.unlogged)
            await self._sender.send_all(inputs, self._topics.denied.name, unlogged, "on_unlogged")

    def _counted(self, records: Records) -> RecordColumns:
        self._metrics.read_verdicts.inc(len(records.values))
        if records.columns is not None:
            self._metrics.verdicts.count(records.columns.templates, records.columns.template)
        return RecordColumns(records.keys, records.values, records.times_ms, records.owners)

    async def _send_logged(self, inputs: Sequence[TrackedInput], records: Records) -> None:
        columns = self._counted(records)
        await self._sender.send_all(inputs, self._topics.flows.name, columns, "on_written")
        if any(records.denied):
            await self._sender.send_all(inputs, self._topics.denied.name, columns.pick(records.denied))
        if self.routing is not None:
            for topic, routed in self.routing.route(records):
                if await self.routing.is_ready(topic):
                    await self._sender.send_all(inputs, topic, routed)
            for topic, error in self.routing.take_failed().items():
                status = {"type": "route_failed", "reason": topic, "error": error[:_MAX_ERROR_CHARACTERS]}
                await self._send_own_status(inputs[0], status)

    async def _send_own_status(self, tracked: TrackedInput, status: dict[str, Any]) -> None:
        await self._sender.send_status(tracked, self._worker, status | self._own_cluster)

    async def _account(self, tracked: TrackedInput, batch: Batch) -> None:
        header = batch.header
        self._clocks.note(header)
        partition, before = tracked.partition, self._losses.next_number(tracked.partition, header)
        losses = self._losses.detect(partition, header)
        if tracked.dead and (before is None or header.covered.end > before):  # a repeat was counted already
            losses.append(Loss("lost", "enrich_failed", tracked.dead, header.first))
        losses += [Loss("ends_lost", *one[:2], text=one.text) for one in batch.refused_ends]
        # Before anything is sent: the partition may be revoked, and its rings forgotten, meanwhile.
        self.positions.note(tracked, header, *self._losses.position(partition, header), before, losses)
        for found in losses:
            await self._sender.send_status(tracked, header.node, account(found, header, self._metrics))
        for status in statements(header, self._metrics):
            await self._sender.send_status(tracked, header.node, status)
