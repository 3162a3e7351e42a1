"""Moves verdicts from the ring buffer to the spool: reads, batches and appends them, then releases their place.

So a verdict is in the ring, in the spool, or for a moment in both, whenever the process is killed; the example in
``probe.export.spool`` shows each case. The next start continues after the last verdict in the spool. Each loss is
counted by what loses it and reported in the headers of batches; the last header says what is reported already.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog

from probe.export.batcher import Batcher, EncodedBatch, Limits, References
from probe.export.ring import Ring
from probe.export.spool import Spool

log = structlog.get_logger("kubeweir.probe")

_POLL_S: Final = 0.005
"""Poll interval of the ring. Polling is cheaper than a wake-up per event: the programs never wake the reader."""
_MAX_VERDICTS_READ: Final = 20_000
_RETRY_S: Final = 1.0
_REPORT_S: Final = 10.0


class Drain:
    """One thread that empties the ring until it is stopped."""

    def __init__(self, ring: Ring, references: References, spool: Spool, limits: Limits | None = None) -> None:
        self._ring, self._references, self._spool, self._limits = ring, references, spool, limits
        last = spool.last_header
        self._last = last if last is not None and last.ring == ring.id else None
        """The header of the last batch of this ring that an earlier process appended."""
        self._stop = threading.Event()
        self.failed = threading.Event()
        """Set when the thread died of an unexpected error; the process must then end."""
        self._reported_at = 0.0
        self.verdicts = 0
        """Verdicts read from the ring."""
        self.batches = 0
        """Batches appended to the spool."""
        self.problem: str | None = "the cluster's id is not known yet, so verdicts stay in the ring"
        self._thread: threading.Thread | None = None

    @property
    def cluster(self) -> str | None:
        """The cluster's id in the last batch of this ring: a restart need not wait for the API server to get it."""
        return self._last.cluster if self._last else None

    def start(self, cluster: str, node: str) -> None:
        """Start behind the last verdict in the spool: a killed probe may have left it in the ring as well."""
        if self._last:
            self._ring.skip_to(self._last.first + self._last.verdicts)
        ring_key = cluster, node, self._ring.id
        batcher = Batcher(ring_key, self._references, self.lost, self._reported_losses(), self._limits)
        batcher.start_at(self._ring.consumer_number)
        self.problem = None
        self._thread = threading.Thread(target=self._run, args=(batcher,), name="drain")
        self._thread.start()

    def stop(self) -> None:
        """Append everything that is in the ring to the spool, and end the thread."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def lost(self) -> Mapping[str, int]:
        """Return the lost verdicts by reason: totals of the ring's life for what the kernel lost, of the spool's life
        for what was lost behind the ring."""
        return {**self._ring.lost(), **self._spool.lost()}

    def _reported_losses(self) -> dict[str, int]:
        """Return the totals that earlier processes reported. After a reboot the ring is a new one, whose counts begin
        at 0; those of the spool go on."""
        last = self._spool.last_header
        reported = {reason: total for reason, (_, total) in last.lost.items()} if last else {}
        return reported if self._last else {reason: reported.get(reason, 0) for reason in self._spool.lost()}

    def _run(self, batcher: Batcher) -> None:
        try:
            while not self._stop.is_set():
                if not self._step(batcher, everything=False):
                    self._stop.wait(_POLL_S)
            while self._step(batcher, everything=True):
                pass
        except _CannotAppendError:
            log.error("the spool cannot be written: verdicts stay in the ring for the next start",
                      unread_verdicts=self._ring.unread)  # fmt: skip
        except BaseException:
            log.exception("draining the ring failed")
            self.failed.set()
            raise

    def _step(self, batcher: Batcher, *, everything: bool) -> int:
        """Read from the ring once and append what is due; return how many verdicts were read.

        Raises _CannotAppendError.
        """
        first, verdicts = self._ring.read(_MAX_VERDICTS_READ)
        self.verdicts += len(verdicts)
        batcher.add(first, verdicts)
        for batch in batcher.take(everything=everything and not len(verdicts)):
            self._append(batch)
            self._ring.release(batch.end)
            self.batches += 1
        return len(verdicts)

    def _append(self, batch: EncodedBatch) -> None:
        """Append a batch, retrying while the disk does not take it.

        Meanwhile its verdicts stay in the ring; when that is full, the kernel counts what it cannot write.
        """
        while True:
            try:
                self._spool.append(batch.value, batch.header)
            except OSError as error:
                self.problem = f"the spool cannot be written: {error.strerror}"
                if time.monotonic() - self._reported_at > _REPORT_S:
                    self._reported_at = time.monotonic()
                    log.error("the spool cannot be written: verdicts stay in the ring meanwhile",
                              error=error.strerror, retry_s=_RETRY_S)  # fmt: skip
                if self._stop.wait(_RETRY_S):
                    raise _CannotAppendError from error
            else:
                self.problem = None
                return


class _CannotAppendError(Exception):
    """The process is to end and the disk takes no batch. Appending a later one would leave a gap."""
