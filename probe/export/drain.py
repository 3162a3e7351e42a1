"""From the ring to the spool: read, batch, append, and only then give the ring's place back.

So a row is in the ring, or in the spool, or for a moment in both, whenever the process is killed; the next start goes
on behind the last row in the spool. What is lost is counted where it is lost, and the last batch in the spool says what
was told of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog

from probe.export.batcher import Batcher, Limits, References
from probe.export.ring import Ring
from probe.export.spool import Spool

log = structlog.get_logger("kubeweir.probe")

_LOOK_S: Final = 0.005
"""How often the ring is looked at: cheaper than a wake-up per event (the program never wakes anybody)."""
_MOST_ROWS: Final = 20_000
_REPORT_S: Final = 10.0


class Drain:
    """One thread that drains the ring for good."""

    def __init__(self, ring: Ring, names: References, spool: Spool, limits: Limits | None = None) -> None:
        self._ring, self._names, self._spool, self._limits = ring, names, spool, limits
        last = spool.last
        self._last = last if last is not None and last.ring == ring.id else None
        """The last batch of this ring that was spooled, before this process."""
        self._stop = threading.Event()
        self.failed = threading.Event()
        """Set when the thread died of something unforeseen; the process is to end."""
        self._stuck = 0.0
        self.verdicts = 0
        self.batches = 0
        self.problem: str | None = "the cluster's id is not known yet, verdicts stay in the ring"
        self._thread: threading.Thread | None = None

    @property
    def cluster(self) -> str | None:
        """The cluster's id, if a batch of this ring is known: a restart need not wait for the API server to go on."""
        return self._last.cluster if self._last else None

    def start(self, cluster: str, node: str) -> None:
        """Begin to drain, behind the last row in the spool: a killed probe may have left it in the ring as well."""
        if self._last:
            self._ring.skip_to(self._last.first + self._last.verdicts)
        batcher = Batcher((cluster, node, self._ring.id), self._names, self.lost, self._told(), self._limits)
        batcher.start_at(self._ring.consumer_number)
        self.problem = None
        self._thread = threading.Thread(target=self._run, args=(batcher,), name="delivery")
        self._thread.start()

    def stop(self) -> None:
        """Spool everything that is in the ring, and end."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def lost(self) -> Mapping[str, int]:
        """What is missing from the log, by reason: in the ring's life before the spool, in the spool's life behind."""
        return {**self._ring.lost(), **self._spool.lost()}

    def _told(self) -> dict[str, int]:
        """What was told of losses before this process. Of a ring that is gone only what the spool counts goes on."""
        last = self._spool.last
        told = {reason: total for reason, (_, total) in last.lost.items()} if last else {}
        return told if self._last else {reason: told.get(reason, 0) for reason in self._spool.lost()}

    def _run(self, batcher: Batcher) -> None:
        try:
            while not self._stop.is_set():
                if not self._step(batcher, everything=False):
                    self._stop.wait(_LOOK_S)
            while self._step(batcher, everything=True):
                pass
        except _CannotAppendError:
            # What is in no batch of the spool is in the ring still, for the next start.
            log.error("the spool cannot be written, rows stay in the ring", unread_verdicts=self._ring.unread)
        except BaseException:
            log.exception("draining the ring failed")
            self.failed.set()
            raise

    def _step(self, batcher: Batcher, *, everything: bool) -> int:
        """Read and spool once; the rows that were read. Raises _CannotAppendError."""
        first, verdicts = self._ring.read(_MOST_ROWS)
        self.verdicts += len(verdicts)
        batcher.add(first, verdicts)
        for batch in batcher.take(everything=everything and not len(verdicts)):
            self._append(batch.value)
            self._ring.release(batch.end)
            self.batches += 1
        return len(verdicts)

    def _append(self, value: bytes) -> None:
        """Spool a batch; while the disk does not take it, the ring holds its rows, and the kernel counts the rest."""
        while True:
            try:
                self._spool.append(value)
            except OSError as error:
                self.problem = f"the spool cannot be written: {error.strerror}"
                if time.monotonic() - self._stuck > _REPORT_S:
                    self._stuck = time.monotonic()
                    log.error("the spool cannot be written, trying again", error=error.strerror)
                if self._stop.wait(1.0):
                    raise _CannotAppendError from error
            else:
                self.problem = None
                return


class _CannotAppendError(Exception):
    """The process is to end, and the disk does not take the batch. None behind it may be taken either."""
