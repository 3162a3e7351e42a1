"""Names the cause while a service makes no progress, for /readyz and the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from enrich.diagnosis.rights import Cause, Needs, causes
from enrich.runtime.health import Check

log = structlog.get_logger("kubeweir.kafka")

_LOOK_S: Final = 0.5
_PATIENCE_S: Final = 1.5
"""A problem that passes sooner, as at each start, is not looked into."""
_FIRST_BACKOFF_S: Final = 3.0
_MAX_BACKOFF_S: Final = 30.0
"""A look connects to every broker, and thousands of probes may look at once."""
_SOONEST_S: Final = 3.0
"""The least time between two looks if a client is refused, or needs have changed, since the first of them."""


class Diagnosis:
    """Looks for the cause on a thread of its own, as long as one of the checks reports a problem."""

    def __init__(self, connection: Callable[[], Mapping[str, str]], needs: Callable[[], Needs]) -> None:
        """``connection`` returns librdkafka's settings, ``needs`` what the service does on Kafka."""
        self._connection, self._needs = connection, needs
        self._checks: dict[str, Check] = {}
        self._causes: list[Cause] = []
        self._is_refused = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-diagnosis", daemon=True)

    def named(self, name: str, check: Check) -> Check:
        """Return a check that adds the cause to what ``check`` reports. It replaces an earlier one of this name."""
        self._checks[name] = check

        def with_cause() -> str | None:
            problem = check()
            return "; ".join([*(one.text for one in self._causes), *([problem] if problem else [])]) or None

        return with_cause

    def causes(self) -> list[Cause]:
        """Return the causes that were found and hold on; empty while nothing is wrong, or nothing is known."""
        return list(self._causes)

    def suspect(self) -> None:
        """Look for a cause although no check reports a problem: a client has been refused (any thread)."""
        self._is_refused = True

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it is waiting for ends within seconds."""
        self._stop.set()

    def _run(self) -> None:
        since, backoff = None, _FIRST_BACKOFF_S
        while not self._stop.wait(_LOOK_S):
            if not self._is_needed():
                since, backoff, self._causes = None, _FIRST_BACKOFF_S, []
                continue
            since = since or time.monotonic()
            if time.monotonic() - since < _PATIENCE_S:
                continue
            needs = self._needs()
            self._look(needs)
            self._wait(backoff, needs)
            backoff = min(2 * backoff, _MAX_BACKOFF_S)

    def _wait(self, backoff_s: float, needs: Needs) -> None:
        """Wait until the next look, or until the last check that reported a problem passes: then causes may be over,
        and would keep a service unready that works again. A start that takes long is looked into before the service
        has said what it needs, and before its clients are refused."""
        deadline, problem_before = time.monotonic() + backoff_s, self._has_problem()
        soonest = time.monotonic() + _SOONEST_S
        while time.monotonic() < deadline and not self._stop.wait(_LOOK_S):
            if problem_before and not self._has_problem():
                return
            if time.monotonic() >= soonest and (self._is_refused or self._needs() != needs):
                return

    def _has_problem(self) -> bool:
        return any(check() for check in tuple(self._checks.values()))

    def _is_needed(self) -> bool:
        # Causes that were found stay until a look finds none: a client that is refused may report nothing at all.
        return self._is_refused or bool(self._causes) or self._has_problem()

    def _look(self, needs: Needs) -> None:
        self._is_refused = False
        try:
            found = causes(self._connection(), needs)
        except Exception as error:
            # A service must not end because nobody can say why it is refused.
            log.exception("the cause of a problem with Kafka cannot be looked for")
            found = [Cause(f"the cause cannot be looked for: {error!r}")]
        if found and found != self._causes:
            texts = [one.text for one in found]
            if all(one.passes for one in found):
                log.warning("Kafka is not ready for this service", causes=texts)
            else:
                log.error("Kafka refuses this service", causes=texts)
        self._causes = found
