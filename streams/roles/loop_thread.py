"""The thread of a loop that works by transactions: of the roles `alerts` and `journal`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.dead_letters import NoDeadLettersError
from streams.kafka.exactly_once import ExactlyOnce, TransactionAbortedError

log = structlog.get_logger("kubeweir.streams")

_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 15.0
"""Between two attempts that commit nothing the loop is outside of its group, so that others have its partitions."""
_PROVEN_S: Final = 5.0
"""A loop that has begun again, and has had nothing to commit for so long, works."""
_MAX_PATIENCE: Final = 4
_CALM_S: Final = 600.0
"""A loop that has worked for so long begins with the least patience again."""


class LoopMetrics(Protocol):
    """The metrics of loops, each with the loop's name as a label."""

    @property
    def restarts(self) -> Any: ...

    @property
    def lag(self) -> Any: ...


class LoopThread:
    """Runs one loop on a thread, and restarts it from its last commit when a transaction is aborted."""

    def __init__(
        self,
        name: str,
        make: Callable[[int], ExactlyOnce],
        step: Callable[[ExactlyOnce], None],
        metrics: LoopMetrics,
        role: str = "alerts",
        finish: Callable[[ExactlyOnce], None] = lambda _: None,
    ) -> None:
        """``make`` makes the clients, with a patience as in :class:`ExactlyOnce`. ``finish`` is called after the last
        step when the thread is stopped."""
        self.failed: StopServiceError | None = None
        self.turns = 0
        """How many steps have ended, without those between an aborted transaction and the next proof that the loop
        works. Stands still if a call hangs, or each attempt fails. Rises while a loop that has just begun waits for
        partitions: a rebalance may take long, and a restart would only make it longer."""
        self._name, self._make, self._step, self._metrics = name, make, step, metrics
        self._role, self._finish = role, finish
        self._problem: str | None = "Kafka has not been reached yet"
        self._delay_s = 0.0
        self._patience = 1
        """On a slow machine, two workers that time out again and again would rebalance their group each time. So one
        that had partitions waits for longer when it begins again."""
        self._transactions: ExactlyOnce | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{role}-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. Records that are not committed are read again at the next start."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise StopServiceError if the loop has ended with a permanent error."""
        if self.failed is not None:
            raise self.failed

    def problem(self) -> str | None:
        """Return what keeps the loop from making progress, or None."""
        problem = self._problem or (self._transactions.problem if self._transactions else None)
        return f"{self._name}: {problem}" if problem else None

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._delay_s):
                self._work()
        except StopServiceError as error:
            self.failed = error
        except Exception as error:
            log.exception("a loop ended", role=self._role, loop=self._name)
            self.failed = StopServiceError(f"{self._role}, {self._name}: {error!r}", Exit.UNEXPECTED)

    def _work(self) -> None:
        """Run the loop until the stop, or until a transaction is aborted."""
        transactions: ExactlyOnce | None = None
        assigned_at: float | None = None
        try:
            transactions = self._transactions = self._make(self._patience)
            if transactions.start(self._stop) and not self._delay_s:
                self._problem = None
            while not self._stop.is_set():
                self._step(transactions)
                if assigned_at is None and transactions.problem is None:
                    # To get partitions takes as long as a rebalance of the group, and proves nothing.
                    assigned_at = time.monotonic()
                idle = assigned_at is not None and time.monotonic() - assigned_at > _PROVEN_S
                if transactions.has_committed or idle:
                    self._problem, self._delay_s = None, 0.0
                self.turns += self._problem is None
                lag = transactions.lag()
                if lag is not None:
                    self._metrics.lag.labels(self._name).set(lag)
            if self._problem is None:
                self._finish(transactions)
        except (TransactionAbortedError, NoDeadLettersError) as error:
            self._metrics.restarts.labels(self._name).inc()
            self._problem = str(error)
            log.warning("a loop restarts from its last commit", role=self._role, loop=self._name, error=str(error))
            if assigned_at is not None:
                calm = time.monotonic() - assigned_at > _CALM_S
                self._patience = 1 if calm else min(2 * self._patience, _MAX_PATIENCE)
            self._delay_s = min(max(2 * self._delay_s, _FIRST_DELAY_S), _MAX_DELAY_S)
        finally:
            if transactions is not None:
                transactions.close()
