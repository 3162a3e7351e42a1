"""What the enricher does with the records of its topics."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any, Final

import msgspec
import numpy as np
import orjson
from prometheus_client import CollectorRegistry

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import MergedBatch
from enrich.render.peer_lookup import Lookup
from enrich.wire.address_interval import AddressInterval
from enrich.wire.batch import CUT, INGRESS, Verdict, decode_batch
from enrich.wire.flow import decode_flow
from enrich.wire.topics import topics
from enrich.wire.whose import cluster_named
from streams.kafka.records import Record
from streams.metrics.roles import EnrichMetrics
from streams.worker.address_history import AddressHistory
from streams.worker.checkpoint import newest
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.losses import Losses
from streams.worker.pending import PendingVerdicts
from streams.worker.pipeline import Pipeline
from streams.worker.ring_positions import RingPositions
from tests.enrich.flows import CLOCK, make_cluster
from tests.fuzz.reader import Reader
from tests.kafka.batches import make_batch, make_ends, make_rows
from tests.streams.test_contract import TALLY
from tests.streams.worker.test_pipeline import SmallQueue

TOPICS: Final = topics("p", 4)
FRESH: Final = 1000
"""Records after which a reader that remembers is made anew."""


class Decided(Enricher):
    """Renders at once, without waiting for the index."""

    def lookup(self, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        return dataclasses.replace(super().lookup(batch, is_final=is_final), unsettled=None)


class Raw(Reader):
    """The enricher: each batch becomes its records, one dead letter, or is another cluster's."""

    good = (
        make_batch(5, 3, {"lost": {"ring_full": (1, 40)}, "kept": [(5, 1), (7, 2)]}),
        make_batch(0, 2, denied=True, ingress=True),
        make_batch(9, 0, {"tally": TALLY}),
        make_batch(
            9,
            1,
            {
                "ends": make_ends(make_rows(3)),
                "ends_first": 2,
                "ends_removed": {"refused": 4},
                "ends_lost": {"ring_full": [1, 2]},
            },
        ),
    )

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._acked: list[TrackedInput] = []
        self._queue = _Delivering()
        enricher = Decided(make_cluster(), ())
        pending = PendingVerdicts(enricher, lambda: 1 << 62, 10**9, 10**6, time.time_ns)
        self._tracker = InFlightTracker(1000, 10**9, lambda step: step(), _never)
        self._pipeline = Pipeline(
            TOPICS, "c1", enricher, lambda _: "n1", self._queue, EnrichMetrics(CollectorRegistry()), "w", pending
        )

    def __call__(self, value: bytes) -> None:
        self._acked.clear()
        self._queue.taken.clear()
        tracked = self._tracker.open(0, 0, 0, 0, self._acked.append)
        self._loop.run_until_complete(self._pipeline.take([(tracked, value)]))
        assert len(self._acked) == 1, "it is not acknowledged"
        dead, flows = self._queue.of("p.dead"), self._queue.of("p.flows")
        if cluster_named(value.partition(b"\n")[0]) not in {"", "c1"}:
            assert not dead + flows, "another cluster's workers take it"
        elif dead:
            assert dead == [value]
            assert not flows, "records and a dead letter"
        else:
            batch = decode_batch(value)
            header, made = batch.header, [decode_flow(one) for one in flows]
            denied = [decode_flow(one) for one in self._queue.of("p.flows.denied")]
            kinds, flags = batch.verdicts["verdict"] & ~np.uint8(INGRESS), batch.verdicts["flags"]
            is_cut = (flags & CUT != 0) & np.isin(kinds, (Verdict.DENY, Verdict.AUDIT))
            ids = [(f"{header.ring}-{number}", cut) for number, cut in zip(batch.numbers(), is_cut, strict=True)]
            assert [one.id for one in made] == [one for one, cut in ids if not cut]
            # Denials that are logged come first.
            unlogged = [one for one, cut in ids if cut]
            assert [one.id for one in denied][len(denied) - len(unlogged) :] == unlogged
            assert {one.node_name for one in (*made, *denied)} <= {header.node}
            ended = [orjson.loads(one) for one in self._queue.of("p.flows.ended")]
            assert len(ended) == (0 if batch.ends is None else len(batch.ends))
            assert all(one["ended"]["src_packets"] >= 0 and one["id"] is not None for one in ended)

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()


class _Delivering(SmallQueue):
    """Takes everything, and delivers it at once."""

    def offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> bool:
        self.taken.append((topic, key, value, timestamp_ms, dict(headers or ())))
        on_delivery(None, None)
        return True


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is refused, and no topic is opened")


class Endpoints(Reader):
    """The address history: each record is applied, refused, bad or another cluster's, and true pods keep their name."""

    good = tuple(
        msgspec.json.encode(
            AddressInterval(
                cluster="c1", node="n1", ip=ip, uid="u9", namespace="shop", pod="old-0", labels={"app": "old"},
                first=CLOCK - 9 * 10**9, start=CLOCK - 8 * 10**9, end=end, last=end,
            )
        )
        for ip, end in (("10.0.0.9", CLOCK - 10**9), ("fd00::9", None))
    )  # fmt: skip

    def __init__(self) -> None:
        self._count = 0
        self._renew()

    def _renew(self) -> None:
        self._metrics = EnrichMetrics(CollectorRegistry())
        self._cluster = make_cluster()
        self._history = AddressHistory(_never, self._cluster, "c1", self._metrics)

    def _accounted(self) -> Any:
        found = self._metrics
        counters = (
            found.address_intervals, found.bad_address_intervals, found.refused_intervals.labels("forged_interval"),
            found.foreign_records.labels("address_intervals"),
        )  # fmt: skip
        return sum(one._value.get() for one in counters)

    def __call__(self, value: bytes) -> None:
        self._count += 1
        if self._count % FRESH == 0:
            self._renew()
        made = _json(value)
        names = [made.get(name) for name in ("cluster", "node", "ip", "uid")] if isinstance(made, dict) else []
        key = "/".join(map(str, names)).encode(errors="replace") if self._count % 4 else b"c1/n1/10.0.0.9/u9"
        before, addresses = self._accounted(), self._cluster.addresses
        record = Record(0, self._count, key, b"" if self._count % 50 == 0 else value, 0)
        self._history._apply(record, is_last=True)
        assert self._accounted() - before >= 1, "it is not accounted for"
        addresses.owner_at("10.0.0.9", CLOCK, "n1")
        owner = addresses.owner_at("10.0.0.1", CLOCK, "n1")
        assert "web-1" in repr(owner), f"a true pod has lost its name: {owner}"


class Checkpoints(Reader):
    """The next owner of a partition: a checkpoint is used or ignored, and the true one beside it counts."""

    good = (
        b'{"v":1,"offset":40,"complete":true,"rings":[["n1","9f3c",5003,1795890000,{"ring_full":40}]]}',
        b'{"v":1,"offset":0,"complete":false,"rings":[]}',
    )

    def __call__(self, value: bytes) -> None:
        newest([value])
        both = newest([value, self.good[0]])
        assert both is not None, "the true checkpoint is lost"
        assert both.offset >= 40
        losses = Losses()
        losses.take_over(0, both, is_current=True)
        positions = RingPositions()
        positions.take_over(0, both, is_first=False)
        assert positions.encode(0, both.offset) is None or isinstance(positions.encode(0, both.offset), bytes)


def _json(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except ValueError:
        return None
