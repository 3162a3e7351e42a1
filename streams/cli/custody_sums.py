"""The sums of one ring's tallies in a window; :mod:`streams.cli.custody` has the equations that they are checked by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from enrich.wire.bounds import Cluster, Count, LossReason, Node, RingId
from enrich.wire.tally import Reasons, Tally

STAGES: Final = ("kernel", "ring", "spool", "arrival", "enrichment", "flows")


class Finished(msgspec.Struct, frozen=True):
    """What the workers have counted of a ring; see ``streams/schemas/status.schema.json``."""

    begin: Count
    read: Count
    enriched: Count
    written: Count
    unlogged: Count
    dead: Count
    refused: Count
    missing: Reasons = {}


class TallyRecord(msgspec.Struct, frozen=True):
    """A record of the status topic about a tally."""

    type: Literal["tally"]
    cluster: Cluster
    node: Node
    ring: RingId
    next: Count
    finished: Finished
    tally: Tally
    timestamp: Annotated[str, msgspec.Meta(max_length=40)] = ""
    """When a worker wrote it."""
    worker: Annotated[str, msgspec.Meta(max_length=253)] = ""
    """The worker that wrote it."""
    version: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The worker's version; empty if it is an earlier one."""


class Heard(NamedTuple):
    """A tally, and when the node was heard of by it, in seconds since the epoch."""

    at: float
    record: TallyRecord


class FailedRoute(msgspec.Struct, frozen=True):
    """A record of the status topic about a topic of routes that drops records."""

    type: Literal["route_failed"]
    reason: Annotated[str, msgspec.Meta(max_length=249)]
    """The topic."""
    error: Annotated[str, msgspec.Meta(max_length=2000)]
    cluster: Cluster = ""


class LostEnds(msgspec.Struct, frozen=True):
    """A record of the status topic about reports of connections that are lost or left out."""

    type: Literal["ends_lost"]
    node: Node
    reason: LossReason
    reports: Count
    cluster: Cluster = ""


decode_lost_ends = msgspec.json.Decoder(LostEnds).decode
"""Decode a record of the status topic. Raises msgspec.DecodeError for any other than of lost reports."""
decode_failed_route = msgspec.json.Decoder(FailedRoute).decode
"""Decode a record of the status topic. Raises msgspec.DecodeError for any other than of a failed route."""
decode_tally = msgspec.json.Decoder(TallyRecord).decode
"""Decode a record of the status topic. Raises msgspec.DecodeError for any other than a tally."""


@dataclass(slots=True)
class Sum:
    """One equation: a total, and the parts that must add up to it."""

    total: tuple[int, int] = (0, 0)
    """The least and the most that it may be: the kernel counts on while it is read."""
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """How much the parts lack of the total; negative: they have so much too much."""
        found = sum(self.parts.values())
        return max(self.total[0] - found, 0) + min(self.total[1] - found, 0)

    @property
    def value(self) -> int:
        """The total; where it is not known exactly, the one that the parts add up to if they do."""
        return min(max(sum(self.parts.values()), self.total[0]), self.total[1])

    def minus(self, before: Sum) -> Sum:
        """Return what was added since another sum."""
        total = self.total[0] - before.total[1], self.total[1] - before.total[0]
        names = self.parts | before.parts
        return Sum(total, {name: self.parts.get(name, 0) - before.parts.get(name, 0) for name in names})

    def plus(self, other: Sum) -> Sum:
        """Return both together."""
        total = self.total[0] + other.total[0], self.total[1] + other.total[1]
        names = self.parts | other.parts
        return Sum(total, {name: self.parts.get(name, 0) + other.parts.get(name, 0) for name in names})


Sums = dict[str, Sum]
"""The sums by stage."""


class RingTallies:
    """The tallies of one ring: the newest before the window, and the last; and what was counted in between.

    A stage may be counted anew in the window: the spool when the probe was restarted, what arrived when workers had no
    checkpoint. An example: a worker had counted the numbers from 0 on, and its last tally ended at 500. The next one
    counts from 520 on, and its last tally ends at 900. So the sums are those of the numbers 0 to 499 and 520 to 899,
    and no worker has counted the 20 numbers between."""

    def __init__(self, first: Heard) -> None:
        self.base: Heard | None = None
        self.last = first
        self.not_counted = 0
        """Numbers that no worker has counted."""
        self._ended: Sums = {}
        """For each stage that was counted anew, what had been counted before in the window."""

    def add(self, heard: Heard, start: float) -> None:
        """Take a tally; those of a ring come in order."""
        if heard.record.next < self.last.record.next:
            return  # a worker that was frozen has written it after its successor
        if heard.at <= start:
            self.base = heard
        else:
            self._note_anew(heard.record)
        self.last = heard

    def sums(self) -> Sums:
        """Return the sums in the window; without a tally before it, since the ring began."""
        found = _window(self.base.record if self.base else None, self.last.record)
        return {stage: self._ended.get(stage, Sum()).plus(one) for stage, one in found.items()}

    def _note_anew(self, record: TallyRecord) -> None:
        before, begins = _begins(self.last.record), _begins(record)
        anew = [stage for stage, begin in begins.items() if begin != before[stage]]
        if anew:
            ended = self.sums()
            self._ended |= {stage: ended[stage] for stage in anew}
        if "arrival" in anew:
            self.not_counted += max(0, record.finished.begin - self.last.record.next)


def _begins(record: TallyRecord) -> dict[str, int | None]:
    """Return, for each stage that may be counted anew, the first number that is counted."""
    spool = record.tally.spool
    workers = dict.fromkeys(("arrival", "enrichment", "flows"), record.finished.begin)
    return {**workers, "spool": spool.begin if spool else None}


def _window(base: TallyRecord | None, last: TallyRecord) -> Sums:
    """Return the sums of one ring since a tally; of a stage that was counted anew since then, from there on."""
    found = _sums(last)
    if base is None:
        return found
    before, began, begins = _sums(base), _begins(base), _begins(last)
    return {
        stage: one.minus(before[stage]) if began.get(stage) == begins.get(stage) else one
        for stage, one in found.items()
    }


def _sums(record: TallyRecord) -> Sums:
    """Return the sums of one tally, since the counting of each stage began."""
    kernel, spool, done = record.tally.kernel, record.tally.spool, record.finished
    cut = {f"cut:{reason}": count for reason, count in kernel.cut.items()}
    lost = {f"lost:{reason}": count for reason, count in kernel.lost.items()}
    answered = Sum()
    if spool is not None:
        numbers = (spool.next if spool.appended is None else spool.appended) - spool.begin
        parts = {**spool.removed, "published": spool.published, "waiting": spool.waiting}
        answered = Sum((numbers, numbers), parts)
    arrived = record.next - done.begin
    return {
        "kernel": Sum(kernel.decided, {"written": kernel.written, "waiting": kernel.waiting, **cut, **lost}),
        "ring": Sum(kernel.ring, {"verdicts": kernel.verdicts}),
        "spool": answered,
        "arrival": Sum((arrived, arrived), {**done.missing, "read": done.read}),
        "enrichment": Sum((done.read, done.read), {"enriched": done.enriched, "dead": done.dead}),
        "flows": Sum(
            (done.enriched, done.enriched),
            {"written": done.written, "unlogged": done.unlogged, "refused": done.refused},
        ),
    }
