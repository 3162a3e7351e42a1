"""Cuts the verdicts of one ring into batches: decides when a batch ends, and makes the header that lets it stand alone.

The work is done per batch with arrays, never per verdict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from enrich.wire.batch import VERDICT, VERSION, EndpointRef, Header, PolicyRef, Verdict, encode_batch
from enrich.wire.clock_skew import Skew
from enrich.wire.cuts import Cut
from enrich.wire.ends import Ends, encode_ends
from enrich.wire.tally import Tally
from probe.export.collected_ends import CollectedEnds
from probe.export.cut_report import CutReport, CutSource

_QUIET_VERDICTS_PER_S: Final = 100.0
"""Below this rate allows wait longer: a fleet of quiet nodes must not send many tiny batches."""
_RATE_WINDOW_S: Final = 1.0
_CLOCK_READINGS: Final = 3

Verdicts = np.ndarray[Any, np.dtype[np.void]]


def clock_offset_ns(now_ns: Callable[[], int] | None = None, monotonic_ns: Callable[[], int] | None = None) -> int:
    """Return CLOCK_REALTIME minus CLOCK_MONOTONIC in nanoseconds.

    The reading with the shortest time between the two clocks is used: if the process is suspended between them, the
    offset, and so the time of every verdict in the batch, is wrong by as much.
    """
    now_ns, monotonic_ns = now_ns or time.time_ns, monotonic_ns or time.monotonic_ns
    readings = []
    for _ in range(_CLOCK_READINGS):
        before, wall, after = monotonic_ns(), now_ns(), monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1]


class References(Protocol):
    """Resolves the numbers in verdicts to what they refer to."""

    def endpoint(self, number: int) -> EndpointRef | None:
        """Return the pod of an endpoint number, None if it is unknown."""

    def rule(self, number: int) -> Sequence[PolicyRef] | None:
        """Return the policies of a rule number, None if it is unknown."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A batch ends at the first of these limits."""

    verdicts: int = 2000
    bytes: int = 512_000
    """Of the encoded batch, header included."""
    denied_s: float = 0.1
    """Seconds after its first denied or audited verdict."""
    allowed_s: float = 0.5
    """Seconds after its first verdict, if all are allows."""
    quiet_s: float = 2.0
    """In place of ``allowed_s`` on a node with fewer than 100 verdicts a second."""
    heartbeat_s: float = 10.0
    """Seconds without verdicts after which an empty batch is cut."""


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A batch ready for the spool: the Kafka value, and the header that it begins with."""

    value: bytes
    header: Header
    ends_end: int = 0
    """The number behind its last report of a connection (:mod:`probe.export.collected_ends`)."""

    @property
    def end(self) -> int:
        """The number behind its last verdict."""
        return self.header.first + self.header.verdicts


class Batcher:
    """Collects the verdicts of one ring until a batch is due."""

    def __init__(
        self,
        ring_key: tuple[str, str, str],
        references: References,
        lost: Callable[[], Mapping[str, int]],
        reported: Mapping[str, int],
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        skew: Callable[[], Skew | None] = lambda: None,
        tally: Callable[[int], Tally | None] = lambda _end: None,
    ) -> None:
        """``ring_key`` is (cluster, node, ring). ``lost`` returns the total of lost verdicts by reason; ``reported``
        are the totals in the last batch of the process before. ``skew``: see :mod:`enrich.wire.clock_skew`.
        ``tally`` returns the newest tally that is about no verdict from a number on."""
        self._cluster, self._node, self._ring = ring_key
        self._references = references
        self._lost, self._reported = lost, dict(reported)
        self._limits = limits or Limits()
        self.cut_report = CutReport(CutSource(dict), {}, clock)
        """What the headers say was not logged on purpose. To be set before the first batch."""
        self.ends = CollectedEnds()
        """The reports of connections for the headers. To be set before the first batch."""
        self._clock, self._skew, self._tally = clock, skew, tally
        self._given: Tally | None = None
        """The tally that is in a batch already."""
        self._collected: Verdicts = np.empty(0, VERDICT)
        self._first = 0
        self._due = clock() + self._limits.heartbeat_s
        self._recent: list[tuple[float, int]] = []
        """When verdicts were added in the last second, and how many."""

    @property
    def waiting(self) -> int:
        """The number of verdicts that are in no batch yet."""
        return len(self._collected)

    def start_at(self, number: int) -> None:
        """Set the number of the next verdict, before any is added: heartbeats give it too."""
        self._first = number

    def add(self, first: int, verdicts: Verdicts) -> None:
        """Add verdicts, numbered from ``first``, that follow those added before."""
        now = self._clock()
        if not len(self._collected):
            self._first = first
        if len(verdicts):
            before = len(self._collected)
            self._collected = np.concatenate([self._collected, verdicts]) if before else verdicts
            self._recent = [(at, n) for at, n in self._recent if now - at < _RATE_WINDOW_S]
            self._recent.append((now, len(verdicts)))
            wait = self._longest_wait(verdicts)
            self._due = min(self._due, now + wait) if before else now + wait

    def take(self, *, everything: bool = False) -> list[EncodedBatch]:
        """Return the batches that are due; with ``everything``, all verdicts and reports that wait."""
        size = min(self._limits.verdicts, max(1, self._limits.bytes // VERDICT.itemsize))
        taken = []
        # Pods make reports all the time, so waiting until there are none would never end.
        end = self.ends.end
        self.ends.fill(end)
        while len(self._collected) >= size:
            taken.append(self._cut(size))
            self.ends.fill(end)
        if (everything and self._has_any(end)) or self._clock() >= self._due or self.ends.is_due:
            taken.append(self._cut(len(self._collected)))
            while len(self._collected) or (everything and self._has_any(end)):
                taken.append(self._cut(len(self._collected)))
        return taken

    def _has_any(self, end: int) -> bool:
        """Return whether verdicts wait, or reports below a number."""
        self.ends.fill(end)
        return bool(len(self._collected) or len(self.ends.waiting))

    def unreported_losses(self) -> list[EncodedBatch]:
        """Return an empty batch if verdicts were lost or cut that no batch reports. Only if no verdict waits."""
        is_all = dict(self._lost()) == self._reported and not self.ends.has_unreported_losses
        if is_all and not self.cut_report.has_more():
            return []
        self.cut_report.cuts(now=True)
        return [self._cut(0)]

    def _longest_wait(self, verdicts: Verdicts) -> float:
        if bool(np.any((verdicts["verdict"] & 0x7F) != Verdict.ALLOW)):
            return self._limits.denied_s
        rate = sum(n for _, n in self._recent)
        return self._limits.quiet_s if rate < _QUIET_VERDICTS_PER_S else self._limits.allowed_s

    def _cut(self, count: int) -> EncodedBatch:
        """Cut a batch of the first ``count`` verdicts, or of fewer if their references make it too large."""
        lost, cut = dict(self._lost()), self.cut_report.cuts()
        ends = self.ends.waiting
        batch = self._encode(self._collected[:count], lost, cut, ends)
        while len(batch.value) > self._limits.bytes and (count > 1 or len(ends) > 1):
            count, ends = -(-count // 2), ends[: -(-len(ends) // 2)]
            batch = self._encode(self._collected[:count], lost, cut, ends)
        batch = replace(batch, ends_end=self.ends.take(len(ends)))
        self.cut_report.mark_reported()
        self.ends.mark_reported(batch.header.ends_lost or {})
        self._reported, self._given = lost, batch.header.tally or self._given
        self._collected, self._first = self._collected[count:], batch.end
        now = self._clock()
        self._due = now + (self._longest_wait(self._collected) if len(self._collected) else self._limits.heartbeat_s)
        return batch

    def _encode(self, verdicts: Verdicts, lost: Mapping[str, int], cut: list[Cut], ends: Ends) -> EncodedBatch:
        header = self._header(verdicts, lost, cut, ends)
        return EncodedBatch(encode_batch(header, verdicts), header)

    def _header(self, verdicts: Verdicts, lost: Mapping[str, int], cut: list[Cut], ends: Ends) -> Header:
        reported = ends["verdict"]
        endpoints = {n: self._references.endpoint(n) for n in _distinct(verdicts["endpoint"], reported["endpoint"])}
        rules = {n: self._references.rule(n) for n in _distinct(verdicts["rule"], reported["rule"])}
        tally = self._tally(self._first + len(verdicts))
        return Header(
            v=VERSION,
            cluster=self._cluster,
            node=self._node,
            ring=self._ring,
            first=self._first,
            verdicts=len(verdicts),
            verdict_bytes=VERDICT.itemsize,
            clock=clock_offset_ns(),
            skew=self._skew(),
            endpoints={str(number): ref for number, ref in endpoints.items() if ref is not None},
            rules={str(number): list(refs) for number, refs in rules.items() if refs is not None},
            lost={reason: (total - self._reported.get(reason, 0), total) for reason, total in lost.items()},
            cut=cut,
            tally=msgspec.UNSET if tally is None or tally is self._given else tally,
            ends=encode_ends(ends) if len(ends) else msgspec.UNSET,
            ends_first=msgspec.UNSET if self.ends.first is None else self.ends.first,
            ends_lost=self.ends.losses() or msgspec.UNSET,
        )


def _distinct(numbers: np.ndarray[Any, Any], more: np.ndarray[Any, Any]) -> list[int]:
    found: list[int] = np.unique(np.concatenate([numbers, more]) if len(more) else numbers).tolist()
    return found
