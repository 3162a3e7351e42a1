"""Reports the numbers that the probe has removed, at their place in the ring, where a reader finds them missing.

Verdicts that a full spool removes leave a batch without verdicts, the summary. The numbers of a batch that Kafka
refuses are reported by the next batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import orjson

from enrich.wire.batch import VERDICT, Header, encode_batch
from enrich.wire.bounds import MAX_COUNT
from enrich.wire.cuts import sum_of
from enrich.wire.ends import count_ends
from enrich.wire.numbering import REFUSED


def without_ends(header: Header, reason: str) -> Header:
    """Return the header without its reports of connections, which it counts as removed."""
    more = {reason: count_ends(header.ends)} if header.ends else {}
    return msgspec.structs.replace(header, ends=msgspec.UNSET, ends_removed=_ends_removed(header.ends_removed, more))


def _ends_removed(*removed: Mapping[str, int] | msgspec.UnsetType) -> dict[str, int] | msgspec.UnsetType:
    """Return how many reports these count as removed, as a header has it."""
    found: dict[str, int] = {}
    for one in removed:
        for reason, count in (one or {}).items():
            found[reason] = min(found.get(reason, 0) + count, MAX_COUNT)
    return found or msgspec.UNSET


def summary_of(header: Header, reason: str) -> Header:
    """Return the header that stands for a batch of which all verdicts are removed."""
    begin, end = header.covered[:2]
    removed = (reason, begin, end - begin) if end > begin else msgspec.UNSET
    return msgspec.structs.replace(
        without_ends(header, reason), first=end, verdicts=0, kept=None, removed=removed, endpoints={}, rules={}
    )


def joined(before: Header, after: Header) -> Header | None:
    """Return one summary for two; None if the second does not come later in the same ring.

    Numbers between them were lost with a damaged segment, and are reported with the others: a summary for each run of
    numbers could fill the spool."""
    start, end = before.covered, after.covered
    if before.key != after.key or start.end > end.begin:
        return None
    reason = start.reason or end.reason
    removed = (reason, start.begin, end.end - start.begin) if reason else msgspec.UNSET
    return msgspec.structs.replace(
        after,
        removed=removed,
        lost=_sum(before.lost, after.lost),
        cut=sum_of(before.cut, after.cut),
        ends_first=after.ends_first if before.ends_first is msgspec.UNSET else before.ends_first,
        ends_removed=_ends_removed(before.ends_removed, after.ends_removed),
        ends_lost=_sum(before.ends_lost or {}, after.ends_lost or {}) or msgspec.UNSET,
    )


def _sum(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Add what was lost since the last batch; the later totals count."""
    return {**before, **{name: (before.get(name, (0, 0))[0] + one, total) for name, (one, total) in after.items()}}


def covers(summary: Header, other: Header) -> bool:
    """Return whether a summary stands for all numbers of another."""
    own, its = summary.covered, other.covered
    return summary.key == other.key and own.begin <= its.begin and its.end <= own.end


def encode_summary(summary: Header) -> bytes:
    """Encode a summary as a Kafka value."""
    return encode_batch(summary, np.empty(0, VERDICT))


class RefusedNumbers:
    """The numbers of the last batches that Kafka refused, if they follow each other."""

    def __init__(self) -> None:
        self._last: Header | None = None

    def note(self, header: Header) -> None:
        """Note a batch that Kafka has refused."""
        refused = summary_of(header, REFUSED)
        self._last = self._joined_to(refused) or refused

    def marked(self, value: bytes, header: Header) -> bytes:
        """Return a batch that is about to be sent. If it follows the refused ones, its header then names them."""
        both = self._joined_to(summary_of(header, REFUSED))
        if both is None:
            return value
        last = self._last or header
        behind = msgspec.structs.replace(
            header, removed=both.removed, ends_first=both.ends_first,
            ends_removed=_ends_removed(last.ends_removed, header.ends_removed),
        )  # fmt: skip
        return orjson.dumps(msgspec.to_builtins(behind)) + b"\n" + value.partition(b"\n")[2]

    def _joined_to(self, summary: Header) -> Header | None:
        follows = self._last is not None and self._last.covered.end == summary.covered.begin
        return joined(self._last, summary) if self._last and follows else None
