"""Pending verdicts that need not wait any longer, in batches that are worth sending."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from enrich.render.merged_batch import MergedBatch, combine
from streams.worker.inflight import TrackedInput

_MERGE_VERDICTS: Final = 4_000
"""Merging more verdicts than this makes none of them cheaper."""


class Released(NamedTuple):
    """Verdicts that need not wait any longer."""

    inputs: Sequence[TrackedInput]
    """The inputs that they arrived in, indexed by the batch's ``owner``."""
    batch: MergedBatch
    late: int
    """How many of them are sent because they have waited as long as they may."""
    full: bool
    """Whether they are sent because too many bytes wait."""


def merge_released(released: Sequence[Released]) -> Iterator[Released]:
    """Merge what was released together, one after the other: what is done once for a batch costs as much as rendering
    hundreds of verdicts, and each part of the pending verdicts releases a few at a time."""
    for _, found in groupby(released, key=lambda one: one.full):
        group: list[Released] = []
        verdicts = 0
        for one in found:
            verdicts += len(one.batch.verdicts)
            if group and verdicts > _MERGE_VERDICTS:
                yield _merged(group)
                group, verdicts = [], len(one.batch.verdicts)
            group.append(one)
        yield _merged(group)


def _merged(group: Sequence[Released]) -> Released:
    inputs = [tracked for one in group for tracked in one.inputs]
    return Released(inputs, combine([one.batch for one in group]), sum(one.late for one in group), group[0].full)
