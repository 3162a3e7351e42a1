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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from enrich.wire.tally import NodeState
from streams.cli.custody_sums import STAGES, Heard, RingTallies, Sum, Sums

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


NodeKey = tuple[str, str]
"""The cluster and the node."""


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
    ahead_s: float = 0.0
    """By how much its clock is ahead of the clock of the worker that wrote its last tally, at least: no tally is
    written before the node has made it."""


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
        found = ring.sums()
        problems += [Problem(*one, cluster, node, count, text) for one, count, text in _problems(found, ring)]
        sums = {stage: sums[stage].plus(found[stage]) for stage in STAGES}
    newest = max((ring.last for ring in rings), key=lambda one: one.at)
    silent_s, every = now - newest.at, newest.record.tally.every
    is_silent = silent_s > max(_SILENT_INTERVALS * every, _LEAST_SILENCE_S)
    if is_silent:
        text = _unheard(newest.at, now)
        problems.append(Problem("silence", "silent", cluster, node, int(silent_s), text))
    ahead_s = newest.record.tally.at / 1e9 - newest.at
    return NodeCustody(cluster, node, newest.at, is_silent, sums, newest.record.tally.state, problems, ahead_s)


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
    if ring.not_counted:
        yield ("arrival", "not_counted"), ring.not_counted, f"{ring.not_counted:,} verdicts were counted by no worker"
    last = ring.last
    if (count := last.record.tally.kernel.ring[0] - last.record.next) > 0:
        yield ("ring", "not_finished"), count, f"{count:,} verdicts of a tally came after it"
