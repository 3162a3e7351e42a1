"""Moves verdicts from the ring buffer to the spool: reads, batches and appends them, then releases their place.

So a verdict is in the ring, in the spool, or for a moment in both, whenever the process is killed; the example in
``probe.export.spool`` shows each case. The next start continues after the last verdict in the spool. Each loss is
counted by what loses it and reported in the headers of batches; the last header says what is reported already.

After an upgrade there is the ring of another generation too (``probe.kernel.generations``). It is read to its end
before the own ring, so the last header in the spool always is of the ring that is being read.

A node may turn out to belong to another cluster than the last header says. What the rings hold until then was decided
in the first one, and is appended in its name; the other cluster's name begins with the next verdict.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from enrich.runtime.in_time import Started
from enrich.wire.batch import Header
from enrich.wire.clock_skew import Skew
from enrich.wire.cuts import by_kind
from enrich.wire.tally import Tally
from probe.export.batcher import Batcher, EncodedBatch, Limits, References
from probe.export.collected_ends import CollectedEnds
from probe.export.cut_report import CutReport, CutSource
from probe.export.earlier_ring import EarlierRing
from probe.export.ring import Ring
from probe.export.spool import Spool

log = structlog.get_logger("kubeweir.probe")

_POLL_S: Final = 0.005
"""Poll interval of the ring. Polling is cheaper than a wake-up per event: the programs never wake the reader."""
_MAX_VERDICTS_READ: Final = 20_000
_RETRY_S: Final = 1.0
_REPORT_S: Final = 10.0
_OPEN_S: Final = 5.0
"""How long the start waits for the spool's disk."""
_PATIENCE_S: Final = 10.0
"""An append, or the opening of the spool, that takes longer is reported."""


class Drain:
    """One thread that empties the rings until it is stopped."""

    def __init__(
        self,
        ring: Ring,
        references: References,
        spool: Spool,
        limits: Limits | None = None,
        earlier: Sequence[EarlierRing] = (),
        skew: Callable[[], Skew | None] = lambda: None,
        tally: Callable[[str, int], Tally | None] = lambda _ring, _end: None,
        on_appended: Iterable[Callable[[Header], None]] = (),
    ) -> None:
        """``skew`` returns by how much the node's clock is ahead: see :mod:`enrich.wire.clock_skew`. ``tally``
        returns the newest tally of a ring that is about no verdict from a number on. ``on_appended`` are called with
        the header of each batch that is in the spool."""
        self._ring, self._references, self._spool, self._limits = ring, references, spool, limits
        self._key = "", ""
        """The cluster's id and the node, in the batches that are being made."""
        self._cluster = ""
        """The cluster's id from the next verdict on."""
        self._disk_since: float | None = None
        """Since when the disk is to answer."""
        self._opening: Started[bool] | None = None
        self._earlier = earlier
        self._stop = threading.Event()
        self.failed = threading.Event()
        """Set when the thread died of an unexpected error; the process must then end."""
        self._reported_at = 0.0
        self._skew, self._tally, self._on_appended = skew, tally, on_appended
        self.verdicts = 0
        """Verdicts read from the ring."""
        self.batches = 0
        """Batches appended to the spool."""
        self._problem: str | None = "the cluster's id is not known yet, so verdicts stay in the ring"
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str | None:
        """What keeps verdicts from the spool, in words; None if nothing does."""
        since = self._disk_since
        if since is not None and time.monotonic() - since > _PATIENCE_S:
            return f"the spool's disk has not answered for {time.monotonic() - since:.0f} s: verdicts stay in the ring"
        return self._problem

    def known_cluster(self) -> str | None:
        """Return the cluster's id in the last batch of these rings: a restart need not wait for the API server.

        None: there is no such batch, or the disk does not answer for some seconds.
        """
        self._try_to_open(_OPEN_S)
        return self._last_cluster()

    def _last_cluster(self) -> str | None:
        last = self._spool.last_header
        known = any(self._has_last(ring) for ring in (self._ring, *(one.ring for one in self._earlier)))
        return last.cluster if last and known else None

    def start(self, cluster: str, node: str) -> None:
        """Start behind the last verdict in the spool: a killed probe may have left it in the ring as well."""
        self._key, self._cluster = (cluster, node), cluster
        self._problem = None
        self._thread = threading.Thread(target=self._run, name="drain")
        self._thread.start()

    def change_cluster(self, cluster: str) -> None:
        """Go on in the name of another cluster (any thread)."""
        self._cluster = cluster

    def stop(self) -> None:
        """Append everything that is in the ring to the spool, and end the thread."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def lost(self) -> Mapping[str, int]:
        """Return the lost verdicts by reason: totals of the ring's life for what the kernel lost, of the spool's life
        for what was lost behind the ring."""
        return self._lost_of(self._ring)

    def _lost_of(self, ring: Ring) -> Mapping[str, int]:
        return {**ring.lost(), **self._spool.lost()}

    def _has_last(self, ring: Ring) -> bool:
        """Return whether the last batch in the spool is of this ring."""
        last = self._spool.last_header
        return last is not None and last.ring == ring.id

    def _reported_losses(self, ring: Ring) -> dict[str, int]:
        """Return the totals that were reported already. Another ring's counts begin at 0; those of the spool go on."""
        last = self._spool.last_header
        reported = {reason: total for reason, (_, total) in last.lost.items()} if last else {}
        if self._has_last(ring):
            return reported
        return {reason: reported.get(reason, 0) for reason in self._spool.lost()}

    def _batcher(self, ring: Ring) -> Batcher:
        last = self._spool.last_header
        if last and self._has_last(ring):
            ring.skip_to(last.covered.end)
        ring_key = *self._key, ring.id
        batcher = Batcher(
            ring_key, self._references, lambda: self._lost_of(ring), self._reported_losses(ring), self._limits,
            skew=self._known_skew, tally=partial(self._tally, ring.id),
        )  # fmt: skip
        source = CutSource(ring.cut, ring.take_limited, self._references.endpoint)
        batcher.cut_report = CutReport(source, by_kind(last.cut) if last and self._has_last(ring) else {})
        reported = last.ends_lost if last and self._has_last(ring) and last.ends_lost else {}
        batcher.ends = CollectedEnds(ring.ends, ring.ends_lost, {name: total for name, (_, total) in reported.items()})
        batcher.start_at(ring.consumer_number)
        return batcher

    def _known_skew(self) -> Skew | None:
        """Return the offset of the node's clock; until this process has measured it, what the last batch said."""
        last = self._spool.last_header
        return self._skew() or (last.skew if last else None)

    def _run(self) -> None:
        try:
            if not self._open_spool():
                return
            self._key = self._last_cluster() or self._cluster, self._key[1]
            # The last batch may be in its ring still, so that ring comes first: later another header would be last.
            for earlier in sorted(self._earlier, key=lambda one: not self._has_last(one.ring)):
                if not self._empty(earlier.ring, earlier.ended):
                    return  # stopped: the next start goes on, with this ring first
                earlier.remove()
            self._empty(self._ring, self._stop)
        except _CannotAppendError:
            log.error("the spool cannot be written: verdicts stay in the ring for the next start",
                      unread_verdicts=self._ring.unread)  # fmt: skip
        except BaseException:
            log.exception("draining the ring failed")
            self.failed.set()
            raise

    def _try_to_open(self, timeout_s: float) -> bool:
        """Open the spool, and wait so long for the disk at most. Return whether it is open."""
        if self._opening is None or self._opening.has_ended:
            self._disk_since = time.monotonic()
            self._opening = Started("open-spool", self._spool.open)
        with contextlib.suppress(TimeoutError):
            is_open = self._opening.result(timeout_s)
            self._disk_since = None
            return is_open
        return False

    def _open_spool(self) -> bool:
        """Wait until the spool is open; return False if the probe stops before."""
        while not self._try_to_open(_RETRY_S):
            self._report(self._spool.problem or "")
            if self._stop.wait(_RETRY_S):
                return False
        self._problem = None
        return True

    def _report(self, problem: str) -> None:
        """Say, and log now and then, why verdicts stay in the ring."""
        self._problem = problem
        if time.monotonic() - self._reported_at > _REPORT_S:
            self._reported_at = time.monotonic()
            log.error("the spool cannot be written: verdicts stay in the ring meanwhile", reason=problem,
                      retry_s=_RETRY_S)  # fmt: skip

    def _empty(self, ring: Ring, ended: threading.Event) -> bool:
        """Move verdicts to the spool until the probe stops or the ring has ``ended``; then move all that is left.

        Return whether the ring has ended. Raises _CannotAppendError.
        """
        batcher = self._batcher(ring)
        while not (self._stop.is_set() or ended.is_set()):
            if self._key[0] != self._cluster:
                self._append_all(ring, batcher)
                self._key = self._cluster, self._key[1]
                batcher = self._batcher(ring)
            if not self._step(ring, batcher):
                self._stop.wait(_POLL_S)
        has_ended = ended.is_set()  # read first: what is written before it is set must not be missed
        self._append_all(ring, batcher)
        if has_ended and ring is not self._ring:
            # No later batch of this ring could report them.
            for batch in batcher.unreported_losses():
                self._append(batch)
        return has_ended

    def _append_all(self, ring: Ring, batcher: Batcher) -> None:
        """Append everything that is in the ring now. Under steady traffic, waiting until it is empty would never end.

        Raises _CannotAppendError.
        """
        end, read = ring.producer_number, ring.next_number
        while read < end and (verdicts := self._step(ring, batcher)):
            read += verdicts
        self._append_batches(ring, batcher, batcher.take(everything=True))

    def _step(self, ring: Ring, batcher: Batcher) -> int:
        """Read from a ring once and append what is due; return how many verdicts were read.

        Raises _CannotAppendError.
        """
        first, verdicts = ring.read(_MAX_VERDICTS_READ)
        self.verdicts += len(verdicts)
        batcher.add(first, verdicts)
        self._append_batches(ring, batcher, batcher.take())
        return len(verdicts)

    def _append_batches(self, ring: Ring, batcher: Batcher, batches: Iterable[EncodedBatch]) -> None:
        for batch in batches:
            self._append(batch)
            ring.release(batch.end)
            batcher.ends.release(batch.ends_end)
            self.batches += 1

    def _append(self, batch: EncodedBatch) -> None:
        """Append a batch, retrying while the disk does not take it.

        Meanwhile its verdicts stay in the ring; when that is full, the kernel counts what it cannot write.
        """
        while True:
            self._disk_since = time.monotonic()
            try:
                self._spool.append(batch.value, batch.header)
            except OSError as error:
                self._disk_since = None
                self._report(f"the spool cannot be written: {error.strerror}")
                if self._stop.wait(_RETRY_S):
                    raise _CannotAppendError from error
            else:
                self._disk_since = self._problem = None
                for note in self._on_appended:
                    note(batch.header)
                return


class _CannotAppendError(Exception):
    """The process is to end and the disk takes no batch. Appending a later one would leave a gap."""
