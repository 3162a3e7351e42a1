"""From the ring to the spool: read, batch, append, and only then give the ring's place back."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog

from probe.batcher import Batcher, Limits, Names
from probe.publisher import Publisher
from probe.ring import Ring
from probe.spool import Spool

log = structlog.get_logger("kubeweir.probe")

_LOOK_S: Final = 0.005
"""How often the ring is looked at: cheaper than a wake-up per event (the program never wakes anybody)."""
_MOST_ROWS: Final = 20_000
_REPORT_S: Final = 10.0


class Delivery:
    """One thread that drains the ring for good."""

    def __init__(
        self, ring: Ring, names: Names, spool: Spool, identity: tuple[str, str], limits: Limits | None = None
    ) -> None:
        """``identity``: cluster and node."""
        self._ring, self._spool = ring, spool
        told = self._told()
        self._spool_base = told.get("spool_full", 0)
        self._refused_base = told.get("refused", 0)
        self.batcher = Batcher((*identity, ring.id), names, self.lost, told, limits)
        self.publisher: Publisher | None = None
        self._stop = threading.Event()
        self.failed = threading.Event()
        self._stuck = 0.0
        self.rows = 0
        self.batches = 0
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="delivery")
        self._resume()

    def start(self) -> None:
        """Begin to drain."""
        self._thread.start()

    def stop(self) -> None:
        """Spool everything that is in the ring, and end."""
        self._stop.set()
        self._thread.join()

    def lost(self) -> Mapping[str, int]:
        """What is missing from the log on this node since the ring was made, by reason."""
        refused = self.publisher.refused_rows if self.publisher else 0
        return {
            **self._ring.lost(),
            "spool_full": self._spool_base + self._spool.lost_rows,
            "refused": self._refused_base + refused,
        }

    def _told(self) -> dict[str, int]:
        """What the last batch of this ring said of losses, before this process."""
        last = self._spool.last
        if last is None or last.ring != self._ring.id:
            return {}
        return {reason: total for reason, (_, total) in last.lost.items()}

    def _resume(self) -> None:
        """Go on after the last row in the spool: a killed probe may have appended it and not moved the ring."""
        last = self._spool.last
        if last is not None and last.ring == self._ring.id:
            end = max(first + rows for first, rows in last.kept or [(last.first, last.rows)])
            self._ring.skip_to(end)
        self.batcher.start_at(self._ring.consumer_number)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._step(everything=False):
                    self._stop.wait(_LOOK_S)
            while self._step(everything=True):
                pass
        except BaseException:
            log.exception("draining the ring failed")
            self.failed.set()
            raise

    def _step(self, *, everything: bool) -> int:
        """Read and spool once; the rows that were read."""
        first, rows = self._ring.read(_MOST_ROWS)
        self.rows += len(rows)
        self.batcher.add(first, rows)
        for batch in self.batcher.take(everything=everything and not len(rows)):
            if not self._append(batch.value):
                return 0
            self._ring.release(batch.end)
            self.batches += 1
        return len(rows)

    def _append(self, value: bytes) -> bool:
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
                    return False
                continue
            self.problem = None
            return True
