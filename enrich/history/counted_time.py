"""From when to when pairs were counted, put together from the coverage that workers write.

Spans of a partition are put in the order of time. Where one begins at the offset at which the ones before have ended,
nothing was left out between them, however much later that was. One that begins at a smaller offset goes on from them
only if it began before they had ended: otherwise nobody knew how far they had come, or the raw topic was made again. A
partition's first span reaches back as far as anybody asks if it begins at offset 0: there was nothing before. A time is
counted if it is for every partition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from enrich.wire.pair_coverage import ALL_CLUSTERS, CountedSpan, Coverage

BEHIND_S: Final = 180
"""What is younger may not be written yet: a worker says each minute how far it is."""


class Stretch(NamedTuple):
    """Seconds since the epoch; the last is not included."""

    since_s: int
    until_s: int


class Missed(NamedTuple):
    """Verdicts that were read and are in no pair."""

    verdicts: int
    since_s: int
    until_s: int


class CountedTime:
    """Takes records of coverage in any order, and gives the stretches of a window that were not counted."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], Coverage] = {}
        """A later record of a segment replaces an earlier one."""

    def take(self, record: Coverage) -> None:
        """Take a record."""
        self._records[record.cluster, record.segment] = record

    def missed(self, cluster: str, since_s: int, until_s: int) -> Missed | None:
        """Return how many verdicts were read too late to be counted, if some may be of this window."""
        found = [
            one for one in self._of(cluster)
            if one.missed and one.missed_since < until_s and one.missed_until >= since_s
        ]  # fmt: skip
        if not found:
            return None
        return Missed(
            sum(one.missed for one in found),
            min(one.missed_since for one in found),
            max(one.missed_until for one in found),
        )

    def holes(self, cluster: str, since_s: int, until_s: int) -> list[Stretch]:
        """Return the stretches of a window in which pairs of a cluster, or some of them, were not counted."""
        groups: defaultdict[str, list[Coverage]] = defaultdict(list)
        for record in self._of(cluster):
            groups[record.cluster].append(record)
        if not groups:
            return [Stretch(since_s, until_s)] if since_s < until_s else []
        # Partitions and offsets are those of one cluster. A worker of all clusters counts for each of them.
        everybody = groups.pop(ALL_CLUSTERS, [])
        holes: list[Stretch] = []
        for own in list(groups.values()) or [[]]:
            holes += _holes(own, everybody, since_s, until_s)
        return _union(holes)

    def _of(self, cluster: str) -> Iterable[Coverage]:
        return (one for one in self._records.values() if one.cluster in (cluster, ALL_CLUSTERS) or not cluster)


def _holes(own: Iterable[Coverage], everybody: Iterable[Coverage], since_s: int, until_s: int) -> list[Stretch]:
    """Return the holes of one cluster. Its workers and those of all clusters have groups of their own."""
    partitions = max((record.partitions for record in (*own, *everybody)), default=0)
    counted: defaultdict[int, list[Stretch]] = defaultdict(list)
    for records in (own, everybody):
        spans: defaultdict[int, list[CountedSpan]] = defaultdict(list)
        for span in (span for record in records for span in record.spans):
            spans[span.partition].append(span)
        for partition, found in spans.items():
            counted[partition] += _counted(found)
    holes: list[Stretch] = [] if partitions or since_s >= until_s else [Stretch(since_s, until_s)]
    for partition in range(partitions):
        holes += _complement(_union(counted[partition]), since_s, until_s)
    return holes


def _counted(spans: Iterable[CountedSpan]) -> list[Stretch]:
    """Return the stretches in which one partition was counted."""
    found: list[Stretch] = []
    reached = -1
    for span in sorted(spans, key=lambda one: (one.since_s, one.since_offset, one.until_offset)):
        if not found:
            found.append(Stretch(0 if span.since_offset == 0 else span.since_s, span.until_s))
        elif span.since_offset <= reached <= span.until_offset and (
            span.since_offset == reached or span.since_s <= found[-1].until_s
        ):
            found[-1] = Stretch(found[-1].since_s, max(found[-1].until_s, span.until_s))
        else:
            # Something was left out, even if the clocks of both workers do not show when.
            since_s = max(span.since_s, found[-1].until_s + 1)
            found.append(Stretch(since_s, max(since_s, span.until_s)))
        # A smaller offset: the raw topic was made again.
        reached = span.until_offset
    return found


def _union(stretches: Iterable[Stretch]) -> list[Stretch]:
    found: list[Stretch] = []
    for one in sorted(stretches):
        if found and one.since_s <= found[-1].until_s:
            found[-1] = Stretch(found[-1].since_s, max(found[-1].until_s, one.until_s))
        else:
            found.append(one)
    return found


def _complement(stretches: Iterable[Stretch], since_s: int, until_s: int) -> list[Stretch]:
    """Return what ordered stretches leave of a window."""
    found = []
    at = since_s
    for one in stretches:
        if one.since_s > at:
            found.append(Stretch(at, min(one.since_s, until_s)))
        at = max(at, one.until_s)
        if at >= until_s:
            return found
    if at < until_s:
        found.append(Stretch(at, until_s))
    return [one for one in found if one.since_s < one.until_s]
