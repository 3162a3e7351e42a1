"""Whether every decision of the kernels is on the topic of flows, or where the rest is: pure sums of tallies.

Theory of operation. The status topic has a tally of each node some seconds apart (:mod:`enrich.wire.tally`). It is
written when all that it is about is finished, so each one can be checked by itself, and none has to be compared with
counters of another moment. For a window, the newest tally before it is subtracted from the last one in it. Then each
of these equations is checked, and each of its parts was counted where it happened:

1. kernel: decisions = written + cut + lost + in open deny windows
2. ring: numbers of the ring = verdicts that the programs have written
3. spool: numbers that Kafka has answered = published + removed from the spool + refused
4. arrival: numbers that workers are done with = read + missing, by reason
5. enrichment: read = enriched + dead letters
6. flows: enriched = records on the topic of flows + those for alerts only + refused records

What is lost, cut or removed for a reason adds up: the reason is the tally of it. What is missing without a reason
(``gap``), or may be missing (``gap_unknown``), does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from enrich.wire.bounds import Cluster, Count, Node, RingId
from enrich.wire.tally import NodeState, Reasons, Tally

STAGES: Final = ("kernel", "ring", "spool", "arrival", "enrichment", "flows")
_NOWHERE: Final = {
    "kernel": "decisions were made, and were neither written, cut nor lost, and are in no deny window",
    "ring": "numbers of the ring are of no verdict that was written",
    "spool": "numbers of the spool were neither published, removed nor refused: was it damaged?",
    "arrival": "numbers were neither read nor missing for a reason",
    "enrichment": "verdicts were read, and are neither records nor dead letters",
    "flows": "records were made, and Kafka has neither them nor dead letters in their place",
}
_PARTS: Final = {
    "kernel": "decisions by what became of them",
    "ring": "verdicts that were written to the ring",
    "spool": "verdicts by what Kafka answered",
    "arrival": "numbers by whether they arrived",
    "enrichment": "verdicts by whether they were enriched",
    "flows": "records by whether Kafka has them",
}
_UNEXPLAINED: Final = {
    "gap": "did not arrive, or arrived unreadable and are a dead letter",
    "gap_unknown": "may be missing: it is not known whether a worker has finished them",
}
_SILENT_INTERVALS: Final = 3
_LEAST_SILENCE_S: Final = 30.0


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


class Heard(NamedTuple):
    """A tally, and when the node was heard of by it, in seconds since the epoch."""

    at: float
    record: TallyRecord


decode_tally = msgspec.json.Decoder(TallyRecord).decode
"""Decode a record of the status topic. Raises msgspec.DecodeError for any other than a tally."""

NodeKey = tuple[str, str]
"""The cluster and the node."""


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


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not add up."""

    stage: str
    """One of :data:`STAGES`, or ``silence``."""
    reason: str
    cluster: str
    node: str
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class NodeCustody:
    """The sums of one node in the window."""

    cluster: str
    node: str
    at: float
    """When it was last heard of."""
    is_silent: bool
    sums: Sums
    state: NodeState
    problems: list[Problem]


class RingTallies:
    """The tallies of one ring: the newest before the window, and the last."""

    def __init__(self, first: Heard) -> None:
        self.base: Heard | None = None
        self.last = first

    def add(self, heard: Heard, start: float) -> None:
        """Take a tally; those of a ring come in order."""
        if heard.at <= start:
            self.base = heard
        self.last = heard


class Tallies:
    """All tallies that were read, in the order of the topic."""

    def __init__(self, start: float) -> None:
        """``start``: when the window begins, in seconds since the epoch."""
        self._start = start
        self._rings: dict[NodeKey, dict[str, RingTallies]] = {}

    def add(self, heard: Heard) -> None:
        """Take one tally."""
        record = heard.record
        rings = self._rings.setdefault((record.cluster, record.node), {})
        rings.setdefault(record.ring, RingTallies(heard)).add(heard, self._start)

    def nodes(self, now: float) -> list[NodeCustody]:
        """Return the custody of each node, in the order of their names."""
        return [_custody(*key, [*rings.values()], now) for key, rings in sorted(self._rings.items())]

    def unheard(self, seen: Mapping[NodeKey, float]) -> list[Problem]:
        """Return the nodes without a tally. ``seen``: when workers finished the last batch of each node."""
        return [
            Problem("silence", "silent" if at < self._start else "no_tally", *key, 0, _unheard(at, self._start))
            for key, at in sorted(seen.items())
            if not self._is_known(*key)
        ]

    def _is_known(self, cluster: str, node: str) -> bool:
        """Return whether a node has given a tally. Workers that take every cluster's batches do not say whose."""
        return (cluster, node) in self._rings or (not cluster and any(node == one for _, one in self._rings))


def in_all(nodes: Iterable[NodeCustody]) -> Sums:
    """Return the sums of all nodes together."""
    found = {stage: Sum() for stage in STAGES}
    for node in nodes:
        found = {stage: found[stage].plus(node.sums[stage]) for stage in STAGES}
    return found


def _unheard(at: float, start: float) -> str:
    if at < start:
        return f"not heard of since {time_text(at)}: what it has decided since is not known"
    return "gives no tally, as an earlier version of the probe: what it has decided is not known"


def time_text(at: float) -> str:
    """Return a time in UTC, in seconds since the epoch before."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _custody(cluster: str, node: str, rings: Sequence[RingTallies], now: float) -> NodeCustody:
    sums = {stage: Sum() for stage in STAGES}
    problems: list[Problem] = []
    for ring in rings:
        found = _window(ring.base.record if ring.base else None, ring.last.record)
        problems += [Problem(*one, cluster, node, count, text) for one, count, text in _problems(found, ring)]
        sums = {stage: sums[stage].plus(found[stage]) for stage in STAGES}
    newest = max((ring.last for ring in rings), key=lambda one: one.at)
    silent_s, every = now - newest.at, newest.record.tally.every
    is_silent = silent_s > max(_SILENT_INTERVALS * every, _LEAST_SILENCE_S)
    if is_silent:
        text = _unheard(newest.at, now)
        problems.append(Problem("silence", "silent", cluster, node, int(silent_s), text))
    return NodeCustody(cluster, node, newest.at, is_silent, sums, newest.record.tally.state, problems)


def _problems(sums: Mapping[str, Sum], ring: RingTallies) -> Iterable[tuple[tuple[str, str], int, str]]:
    """Yield stage and reason, how many, and a text, of everything in a ring that does not add up."""
    for stage, one in sums.items():
        if one.missing > 0:
            yield (stage, "nowhere"), one.missing, f"{one.missing:,} {_NOWHERE[stage]}"
        elif one.missing < 0:
            yield (stage, "twice"), -one.missing, f"{-one.missing:,} are counted more than once: {_PARTS[stage]}"
    for reason, text in _UNEXPLAINED.items():
        if count := sums["arrival"].parts.get(reason, 0):
            yield ("arrival", reason), count, f"{count:,} verdicts {text}"
    base, last = ring.base, ring.last
    if base and base.record.next < last.record.finished.begin:
        count = last.record.finished.begin - base.record.next
        yield ("arrival", "not_counted"), count, f"{count:,} verdicts were counted by no worker"
    if (count := last.record.tally.kernel.ring[0] - last.record.next) > 0:
        yield ("ring", "not_finished"), count, f"{count:,} verdicts of a tally came after it"


def _window(base: TallyRecord | None, last: TallyRecord) -> Sums:
    """Return the sums of one ring in the window; without a tally before it, since the counting began."""
    found = _sums(last)
    if base is None:
        return found
    before = _sums(base)
    began = {"arrival", "enrichment", "flows"} if base.finished.begin != last.finished.begin else set()
    if _spool_begin(base) != _spool_begin(last):
        began.add("spool")  # the probe was restarted
    return {stage: one if stage in began else one.minus(before[stage]) for stage, one in found.items()}


def _spool_begin(record: TallyRecord) -> int | None:
    spool = record.tally.spool
    return spool.begin if spool else None


def _sums(record: TallyRecord) -> Sums:
    """Return the sums of one tally, since the counting of each stage began."""
    kernel, spool, done = record.tally.kernel, record.tally.spool, record.finished
    cut = {f"cut:{reason}": count for reason, count in kernel.cut.items()}
    lost = {f"lost:{reason}": count for reason, count in kernel.lost.items()}
    answered = Sum()
    if spool is not None:
        numbers = spool.next - spool.begin
        answered = Sum((numbers, numbers), {"published": spool.published, **spool.removed})
    arrived = record.next - done.begin
    return {
        "kernel": Sum(kernel.decided, {"written": kernel.written, "waiting": kernel.waiting, **cut, **lost}),
        "ring": Sum(kernel.ring, {"verdicts": kernel.verdicts}),
        "spool": answered,
        "arrival": Sum((arrived, arrived), {"read": done.read, **done.missing}),
        "enrichment": Sum((done.read, done.read), {"enriched": done.enriched, "dead": done.dead}),
        "flows": Sum(
            (done.enriched, done.enriched),
            {"written": done.written, "unlogged": done.unlogged, "refused": done.refused},
        ),
    }
