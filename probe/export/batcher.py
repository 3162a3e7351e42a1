"""Rows to batches: when a batch ends, and the header that makes it stand alone. Nothing is done once a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from enrich.wire.batch import VERDICT, VERSION, EndpointRef, Header, PolicyRef, Verdict, encode_batch

_QUIET_ROWS_S: Final = 100.0
"""Below this rate allows may wait for longer: a fleet of quiet nodes must not send many tiny batches."""

_READINGS: Final = 3

Verdicts = np.ndarray[Any, np.dtype[np.void]]


def clock_offset_ns() -> int:
    """The wall clock less the kernel's, by the closest of a few readings: between the two, one may be held up, and so
    much would every row of the batch be misdated."""
    found = []
    for _ in range(_READINGS):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        found.append((after - before, wall - (before + after) // 2))
    return min(found)[1]


class References(Protocol):
    """What numbers in rows stand for."""

    def endpoint(self, number: int) -> EndpointRef | None:
        """The pod behind an endpoint number."""

    def rule(self, number: int) -> Sequence[PolicyRef] | None:
        """The policies behind a rule number."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch ends: by rows, bytes with its header, or seconds after its first denied or allowed row."""

    verdicts: int = 2000
    bytes: int = 512_000
    denied_s: float = 0.1
    allowed_s: float = 0.5
    quiet_s: float = 2.0
    heartbeat_s: float = 10.0


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A batch ready for the spool. ``end`` is the number behind its last row."""

    value: bytes
    end: int


class Batcher:
    """Collects the rows of one ring. ``lost`` gives totals by reason; ``told`` the totals that were told before."""

    def __init__(
        self,
        identity: tuple[str, str, str],
        names: References,
        lost: Callable[[], Mapping[str, int]],
        told: Mapping[str, int],
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity``: cluster, node, ring."""
        self._cluster, self._node, self._ring = identity
        self._names = names
        self._lost, self._told = lost, dict(told)
        self._limits = limits or Limits()
        self._clock = clock
        self._rows: Verdicts = np.empty(0, VERDICT)
        self._first = 0
        self._due = clock() + self._limits.heartbeat_s
        self._seen: list[tuple[float, int]] = []

    @property
    def waiting(self) -> int:
        """Rows that are in no batch yet."""
        return len(self._rows)

    def add(self, first: int, verdicts: Verdicts) -> None:
        """Rows behind those added before, numbered from ``first``."""
        now = self._clock()
        if not len(self._rows):
            self._first = first
        if len(verdicts):
            was = len(self._rows)
            self._rows = np.concatenate([self._rows, verdicts]) if was else verdicts
            self._seen = [(at, n) for at, n in self._seen if now - at < 1.0]
            self._seen.append((now, len(verdicts)))
            wait = self._patience(verdicts)
            self._due = min(self._due, now + wait) if was else now + wait

    def take(self, *, everything: bool = False) -> list[EncodedBatch]:
        """The batches that are due; all of what waits if ``everything``."""
        size = min(self._limits.verdicts, max(1, self._limits.bytes // VERDICT.itemsize))
        taken = []
        while len(self._rows) >= size:
            taken.append(self._cut(size))
        if (everything and len(self._rows)) or self._clock() >= self._due:
            taken.append(self._cut(len(self._rows)))
            while len(self._rows):
                taken.append(self._cut(len(self._rows)))
        return taken

    def _patience(self, verdicts: Verdicts) -> float:
        if bool(np.any((verdicts["verdict"] & 0x7F) != Verdict.ALLOW)):
            return self._limits.denied_s
        rate = sum(n for _, n in self._seen)
        return self._limits.quiet_s if rate < _QUIET_ROWS_S else self._limits.allowed_s

    def _cut(self, count: int) -> EncodedBatch:
        """The first ``count`` rows as a batch, fewer where so many names go with them that it would be too large."""
        lost = dict(self._lost())
        value = self._encode(self._rows[:count], lost)
        while len(value) > self._limits.bytes and count > 1:
            count //= 2
            value = self._encode(self._rows[:count], lost)
        self._told = lost
        self._rows, self._first = self._rows[count:], self._first + count
        now = self._clock()
        self._due = now + (self._patience(self._rows) if len(self._rows) else self._limits.heartbeat_s)
        return EncodedBatch(value, self._first)

    def _encode(self, verdicts: Verdicts, lost: Mapping[str, int]) -> bytes:
        return encode_batch(self._header(self._first, verdicts, lost), verdicts)

    def _header(self, first: int, verdicts: Verdicts, lost: Mapping[str, int]) -> Header:
        since = {reason: (total - self._told.get(reason, 0), total) for reason, total in lost.items()}
        endpoints = {number: self._names.endpoint(number) for number in np.unique(verdicts["endpoint"]).tolist()}
        rules = {number: self._names.rule(number) for number in np.unique(verdicts["rule"]).tolist()}
        return Header(
            v=VERSION,
            cluster=self._cluster,
            node=self._node,
            ring=self._ring,
            first=first,
            verdicts=len(verdicts),
            verdict_bytes=VERDICT.itemsize,
            clock=clock_offset_ns(),
            endpoints={str(number): ref for number, ref in endpoints.items() if ref is not None},
            rules={str(number): list(refs) for number, refs in rules.items() if refs is not None},
            lost=since,
        )

    def start_at(self, number: int) -> None:
        """The number that the next row will have, before any was added."""
        self._first = number
