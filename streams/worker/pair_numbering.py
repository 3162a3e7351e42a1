"""Gives verdicts the numbers of their combinations, for many merged batches at once.

THEORY OF OPERATION

Right after records were rendered, the processor's caches are full of them. Numbering the 4,000 verdicts of one merged
batch then takes 0.2 microseconds for each, most of it to get code and tables back into the caches; for 32,000 verdicts
at once it takes a quarter of that. So merged batches wait here, as the columns that they were rendered from, until
there are enough of them, or until the counts are wanted.

The values behind the columns never change, so it makes no difference how long they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from enrich.render.flow_columns import FlowColumns
from enrich.wire.pair_records import SECOND_NS
from streams.worker.inflight import TrackedInput
from streams.worker.pair_keys import Combinations
from streams.worker.pair_segment import Counted, Segment

NUMBER_AT: Final = 32_768
"""Verdicts that wait, at most. They take about 140 bytes each."""


class CountedPart(NamedTuple):
    """What was counted of some verdicts of an input."""

    segment: Segment
    counted: Counted


class RenderedPart(NamedTuple):
    """The verdicts of an input in one merged batch."""

    batch: RenderedBatch
    place: int
    """The index of the input's header in the merged batch."""

    def counted(self) -> Iterable[CountedPart]:
        """Return what was counted of them; their batch has its numbers."""
        return self.batch.parts.get(self.place, ())


class RenderedBatch:
    """A merged batch of records, with the inputs that it was made from."""

    __slots__ = ("columns", "inputs", "parts")

    def __init__(self, inputs: Sequence[TrackedInput], columns: FlowColumns) -> None:
        self.inputs: Sequence[TrackedInput] = inputs
        self.columns: FlowColumns | None = columns
        """None as soon as it has its numbers: a record takes less memory as counted than as columns."""
        self.parts: dict[int, list[CountedPart]] = {}
        """What was counted, by the index of the input's header."""

    def finish(self) -> None:
        """Forget what was needed to number it."""
        self.columns, self.inputs = None, ()


class Numbering:
    """Merged batches of one worker that wait for the numbers of their combinations."""

    def __init__(self, segment_of: Callable[[str], Segment], on_failed: Callable[[int, Exception], None]) -> None:
        """``segment_of`` returns the segment to count a cluster in. ``on_failed`` gets the number of verdicts that
        could not be numbered, and the error; their inputs are marked as uncounted."""
        self._segment_of, self._on_failed = segment_of, on_failed
        self._waiting: list[RenderedBatch] = []
        self._verdicts = 0

    def add(self, inputs: Sequence[TrackedInput], columns: FlowColumns) -> None:
        """Take the records of some inputs, and leave with each input a reference to its part."""
        batch = RenderedBatch(inputs, columns)
        for place, tracked in enumerate(inputs):
            part = RenderedPart(batch, place)
            if tracked.pairs is None:
                tracked.pairs = [part]
            else:
                tracked.pairs.append(part)
        self._waiting.append(batch)
        self._verdicts += len(columns.template)
        if self._verdicts >= NUMBER_AT:
            self.number_all()

    def number_all(self) -> None:
        """Number everything that waits. A batch that fails is reported, and costs no other batch its numbers."""
        waiting, self._waiting, self._verdicts = self._waiting, [], 0
        if not waiting:
            return
        try:
            self._number(waiting)
        except Exception:
            for batch in waiting:
                self._number_alone(batch)
        for batch in waiting:
            batch.finish()

    def drop_all(self) -> None:
        """Leave what waits uncounted."""
        for batch in self._waiting:
            for tracked in batch.inputs:
                tracked.uncounted = True
            batch.finish()
        self._waiting, self._verdicts = [], 0

    def _number_alone(self, batch: RenderedBatch) -> None:
        try:
            self._number([batch])
        except Exception as error:
            batch.parts = {}
            for tracked in batch.inputs:
                tracked.uncounted = True
            self._on_failed(len(batch.columns.template) if batch.columns is not None else 0, error)

    def _number(self, batches: Iterable[RenderedBatch]) -> None:
        by_cluster: dict[str, list[tuple[RenderedBatch, FlowColumns]]] = {}
        for batch in batches:
            batch.parts = {}
            for cluster, columns in _by_cluster(batch.columns):
                by_cluster.setdefault(cluster, []).append((batch, columns))
        for cluster, some in by_cluster.items():
            segment = self._segment_of(cluster)
            counted = _counted(segment.combinations, [columns for _, columns in some])
            begin = 0
            for batch, columns in some:
                for place, _, span in columns.batch.parts():
                    part = counted[:, begin + span.start : begin + span.stop]
                    batch.parts.setdefault(place, []).append(CountedPart(segment, part))
                begin += len(columns.template)


def _by_cluster(columns: FlowColumns | None) -> Iterator[tuple[str, FlowColumns]]:
    """Yield the columns of each cluster. They are of several without the namespace kube-system in manifests, because
    every cluster's batches are taken then."""
    if columns is None or not len(columns.template):
        return
    headers = columns.batch.headers
    clusters = {header.cluster for header in headers}
    if len(clusters) == 1:
        yield clusters.pop(), columns
        return
    of_verdicts = np.array([header.cluster for header in headers], object)[columns.batch.owner]
    for cluster in sorted(set(of_verdicts.tolist())):
        yield cluster, columns.pick(of_verdicts == cluster)


def _counted(combinations: Combinations, batches: Sequence[FlowColumns]) -> Counted:
    """Return what each verdict of some batches adds to the counts."""
    counted = np.empty((4, sum(len(columns.template) for columns in batches)), np.uint32)
    pair_columns = []
    begin = 0
    for columns in batches:
        # Both together, because both read the same memory.
        pair_columns.append(combinations.columns(columns))
        _count_batch(columns, counted[:, begin : begin + len(columns.template)])
        begin += len(columns.template)
    ends, ports = (np.concatenate(column) for column in zip(*pair_columns, strict=True))
    counted[0] = combinations.numbers(batches, ends, ports)
    return counted


def _count_batch(columns: FlowColumns, counted: Counted) -> None:
    """Fill in packets, and the first and last second, of each verdict of a batch."""
    batch = columns.batch
    verdicts = batch.verdicts
    counted[1] = verdicts["count"]
    seconds = batch.wall // SECOND_NS
    if len(seconds) and (seconds.min() < 0 or seconds.max() >= 1 << 32):
        seconds = np.clip(seconds, 0, (1 << 32) - 1)
    counted[2] = seconds
    spans = verdicts["span_ms"]
    if spans.any():
        last = (batch.wall + spans.astype(np.int64) * 1_000_000) // SECOND_NS
        counted[3] = np.clip(last, 0, (1 << 32) - 1)
    else:
        counted[3] = seconds
