"""Asks questions side by side, so that one that is not answered costs at most the time for all.

A question that hangs is left behind on its thread, which does not keep the process from ending. What it has found up to
then is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from enrich.runtime.work_thread import start_work
from streams.cli.doctor.finding import Finding, problem
from streams.kafka.connection import ReadError

Question = Callable[[], Iterable[Finding]]
"""Yields what it finds. It may raise :class:`ReadError`, or anything else, or hang."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that is under way."""

    about: str
    work: Future[None]
    found: list[Finding]


class Asking:
    """Questions that share a time."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s

    def start(self, about: str, question: Question) -> Asked:
        """Ask a question on a thread of its own."""
        found: list[Finding] = []

        def collect() -> None:
            for one in question():
                found.append(one)  # one by one, so that nothing is lost if the next one never comes

        return Asked(about, start_work(collect, f"doctor-{about}"), found)

    def findings(self, asked: Asked) -> list[Finding]:
        """Return what a question has found when it is answered, or when the time is over."""
        try:
            asked.work.result(max(0.0, self._deadline - time.monotonic()))
        except ReadError as error:
            return [*asked.found, problem(asked.about, str(error))]
        except Exception as error:
            if asked.work.done():
                return [*asked.found, problem(asked.about, f"cannot be looked at: {error!r}")]
            late = f"not answered within {self._timeout_s:g} s: look at the other lines, or give more time (--timeout)"
            return [*asked.found, problem(asked.about, late)]
        return asked.found
