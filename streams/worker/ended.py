"""Records of connections that have ended: the record of the verdict, with what the connection carried.

A report in a batch (:mod:`enrich.wire.ends`) begins with the verdict that allowed the connection. It is rendered as the
verdict was, as of the verdict's time, so it has the same names as far as the index still knows who had an address then.
The member ``ended`` is added to the text, and the record goes to the topic ``flows.ended``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson

from enrich.render.columns import wall_texts
from enrich.render.enricher import Records
from enrich.render.merged_batch import merge
from enrich.wire.batch import INGRESS, Batch, Header
from enrich.wire.ends import NO_NUMBER, Ends, How
from streams.kafka.record_columns import RecordColumns
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import TrackedInput
from streams.worker.rendering import Renderer, look_up_finally
from streams.worker.sender import Sender

_NS_IN_MS: Final = 1_000_000
_HOW: Final = {how.value: how.name.lower() for how in How}


def ended_records(renderer: Renderer, header: Header, ends: Ends, until_ns: int) -> RecordColumns:
    """Return the records of the reports in a batch.

    ``until_ns``: up to when the index knows who had an address (:func:`look_up_finally`)."""
    batch = merge(Batch(header, np.ascontiguousarray(ends["verdict"]), ends["number"].astype(np.uint64)))
    records = renderer.records(batch, look_up_finally(renderer, batch, until_ns))
    times = np.minimum(ends["until_ns"].astype(np.int64) + header.clock, time.time_ns()).clip(0) // _NS_IN_MS
    values = _with_ends(_with_ids(records, header, ends), header, ends)
    return RecordColumns(records.keys, values, times.tolist(), records.owners)


def _with_ids(records: Records, header: Header, ends: Ends) -> Sequence[bytes]:
    """Return the records with the ids of their verdicts: another ring may have these, and a number may not be known."""
    own = b'"id":' + orjson.dumps(header.ring)[:-1]
    values = list(records.values)
    texts = [f"{ring:016x}" for ring in ends["ring"].tolist()]
    for place, (ring, number) in enumerate(zip(texts, ends["number"].tolist(), strict=True)):
        if ring != header.ring or number == NO_NUMBER:
            known = f'"id":"{ring}-{number}"' if number != NO_NUMBER else '"id":""'
            values[place] = known.encode().join(values[place].rsplit(own + f'-{number}"'.encode(), 1))
    return values


def _with_ends(records: Sequence[bytes], header: Header, ends: Ends) -> list[bytes]:
    """Return the records with their member ``ended``."""
    opened = (ends["verdict"]["verdict"] & INGRESS != 0).astype(np.int64)
    places = np.arange(len(ends))
    since, until = (wall_texts(ends[name].astype(np.int64) + header.clock) for name in ("since_ns", "until_ns"))
    duration = (ends["until_ns"].astype(np.int64) - ends["verdict"]["time_ns"].astype(np.int64)) // _NS_IN_MS
    columns: Sequence[Sequence[int]] = [
        ends["how"].tolist(), ends["part"].tolist(), duration.clip(0).tolist(),
        *(ends[name][places, way].tolist() for way in (opened, 1 - opened) for name in ("bytes", "packets")),
    ]  # fmt: skip
    values = []
    for value, begin, end, how, part, ms, sent, sent_packets, back, back_packets in zip(
        records, since, until, *columns, strict=True
    ):
        ended = {
            "how": _HOW[how], "part": part, "since": f"{begin}Z", "until": f"{end}Z", "duration_ms": ms,
            "src_bytes": sent, "src_packets": sent_packets, "dest_bytes": back, "dest_packets": back_packets,
        }  # fmt: skip
        values.append(value[:-1] + b',"ended":' + orjson.dumps(ended) + b"}")
    return values


class EndedSender:
    """Sends the records of the connections that batches report."""

    def __init__(self, renderer: Renderer, sender: Sender, topic: str, metrics: EnrichMetrics) -> None:
        self._renderer, self._sender, self._topic, self._metrics = renderer, sender, topic, metrics

    async def send(self, tracked: TrackedInput, batch: Batch, until_ns: int) -> None:
        """Send the records of a batch that is being processed."""
        if batch.ends is None or not len(batch.ends):
            return
        records = ended_records(self._renderer, batch.header, batch.ends, until_ns)
        self._metrics.ends.inc(len(records.values))
        await self._sender.send_all([tracked], self._topic, records)
