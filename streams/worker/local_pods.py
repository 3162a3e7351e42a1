"""The local pods of the verdicts in a merged batch: those at whose interfaces the verdicts were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from enrich.render.interning import Int64Array
from enrich.render.merged_batch import MergedBatch
from streams.worker.inflight import TrackedInput

LocalPod = tuple[str, int]
"""The ring and the endpoint number of a local pod."""


def verdicts_by_input(inputs: Sequence[TrackedInput], batch: MergedBatch) -> Iterator[tuple[TrackedInput, int]]:
    """Yield each input that has verdicts in the batch, and how many."""
    counts = np.bincount(batch.owner).tolist()
    return ((inputs[place], verdicts) for place, verdicts in enumerate(counts) if verdicts)


def number_rings(batch: MergedBatch) -> dict[str, int]:
    """Number the rings of the batch."""
    return {ring: number for number, ring in enumerate(dict.fromkeys(header.ring for header in batch.headers))}


def number_pods(batch: MergedBatch, rings: dict[str, int]) -> Int64Array:
    """Return one integer for the local pod of each verdict: the ring's number above, the endpoint's below."""
    ring = np.array([rings[header.ring] for header in batch.headers], np.int64)
    numbers: Int64Array = ring[batch.owner] << 32 | batch.verdicts["endpoint"]
    return numbers


def local_pods(batch: MergedBatch) -> frozenset[LocalPod]:
    """Return the local pods that have verdicts in the batch."""
    rings = number_rings(batch)
    names = list(rings)
    numbers = np.unique(number_pods(batch, rings)).tolist()
    return frozenset((names[number >> 32], number & 0xFFFFFFFF) for number in numbers)
