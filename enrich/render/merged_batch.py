"""Merges the batches that wait into one array, so that the work of a batch is done once for all of them.

A quiet node sends batches of ten verdicts, and a worker may have a hundred of them waiting. Verdicts keep the order of
their batches. ``owner`` says which header explains a verdict's numbers; its wall-clock time and its number in the ring
are columns, because they depend on that header.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enrich.render.interning import Int64Array
from enrich.wire.batch import CUT, INGRESS, VERDICT, Batch, Header, Verdict
from enrich.wire.clock_skew import correction_ns

VerdictArray = np.ndarray[Any, np.dtype[np.void]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class MergedBatch:
    """Verdicts of some batches. All arrays have one length."""

    headers: Sequence[Header]
    verdicts: VerdictArray
    owner: Int64Array
    """The index of each verdict's header, in ascending order."""
    numbers: np.ndarray[Any, np.dtype[np.uint64]]
    """The number of each verdict in its ring."""
    wall: Int64Array
    """The time of each verdict by the brokers' clocks, in nanoseconds, to be compared with what other nodes say."""
    node_wall: Int64Array
    """The same by the node's own clock, which is what a record says; the same array if no node's clock is wrong."""

    def pick(self, verdicts: Mask) -> MergedBatch:
        """Return the part that a mask selects, with the same headers."""
        wall = self.wall[verdicts]
        node_wall = wall if self.node_wall is self.wall else self.node_wall[verdicts]
        picked = self.verdicts[verdicts], self.owner[verdicts], self.numbers[verdicts]
        return MergedBatch(self.headers, *picked, wall, node_wall)

    def cut(self) -> Mask:
        """Return which verdicts are denials that are not logged. The flag means nothing on other verdicts."""
        kinds = self.verdicts["verdict"] & ~np.uint8(INGRESS)
        marked: Mask = (self.verdicts["flags"] & CUT != 0) & np.isin(kinds, (Verdict.DENY, Verdict.AUDIT))
        return marked

    def parts(self) -> Iterator[tuple[int, Header, slice]]:
        """Yield the index and the header of each batch that has verdicts here, and the slice of its verdicts."""
        ends = np.bincount(self.owner, minlength=len(self.headers)).cumsum().tolist()
        begin = 0
        for place, (header, end) in enumerate(zip(self.headers, ends, strict=True)):
            if end > begin:
                yield place, header, slice(begin, end)
            begin = end

    def batch(self, place: int) -> Batch:
        """Return the verdicts of one header as a batch."""
        verdicts = self.owner == place
        return Batch(self.headers[place], self.verdicts[verdicts], self.numbers[verdicts])


def merge(*batches: Batch) -> MergedBatch:
    """Merge batches, one after the other."""
    counts = np.array([len(batch.verdicts) for batch in batches])
    headers = [batch.header for batch in batches]
    verdicts = batches[0].verdicts if len(batches) == 1 else _concatenated([batch.verdicts for batch in batches])
    clocks = np.array([header.clock for header in headers], np.int64)
    wall = node_wall = verdicts["time_ns"].astype(np.int64) + np.repeat(clocks, counts)
    corrections = [correction_ns(header.skew) for header in headers]
    if any(corrections):
        wall = node_wall - np.repeat(np.array(corrections, np.int64), counts)
    owner = np.repeat(np.arange(len(batches)), counts)
    return MergedBatch(headers, verdicts, owner, _numbers(batches, counts), wall, node_wall)


def combine(batches: Sequence[MergedBatch]) -> MergedBatch:
    """Combine merged batches, one after the other."""
    if len(batches) == 1:
        return batches[0]
    counts = [len(batch.headers) for batch in batches]
    offsets = np.cumsum([0, *counts[:-1]])
    wall = np.concatenate([batch.wall for batch in batches])
    is_same = all(batch.node_wall is batch.wall for batch in batches)
    return MergedBatch(
        [header for batch in batches for header in batch.headers],
        _concatenated([batch.verdicts for batch in batches]),
        np.concatenate([batch.owner + offset for batch, offset in zip(batches, offsets, strict=True)]),
        np.concatenate([batch.numbers for batch in batches]),
        wall,
        wall if is_same else np.concatenate([batch.node_wall for batch in batches]),
    )


def clock_of(header: Header) -> str:
    """Return the node by whose clock the times of a batch are measured, empty if they were corrected."""
    return "" if correction_ns(header.skew) else header.node


def _concatenated(arrays: list[Any]) -> VerdictArray:
    # numpy.concatenate takes 25 microseconds for each structured array.
    return np.frombuffer(b"".join(arrays), VERDICT)


def _numbers(batches: Sequence[Batch], counts: Int64Array) -> np.ndarray[Any, np.dtype[np.uint64]]:
    if any(batch.picked is not None or batch.header.kept is not None for batch in batches):
        return np.concatenate([batch.numbers() for batch in batches])
    offsets = np.array([batch.header.first for batch in batches], np.int64) - (counts.cumsum() - counts)
    numbers = np.repeat(offsets, counts) + np.arange(counts.sum())
    return numbers.astype(np.uint64)
