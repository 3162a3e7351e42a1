"""Alerts to Alertmanager, by its API v2, as Prometheus sends them.

What fires is sent again and again, each time with an end that is four times as far ahead: an alert that nobody repeats
is over then, and an Alertmanager that restarts is told of all. What is resolved is sent with its end, and again for a
while, in case that it came back without its memory.
(https://prometheus.io/docs/alerting/latest/clients/)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from streams.alerts.alert import stamp
from streams.sinks.http import Poster
from streams.sinks.sink import RefusedError

log = structlog.get_logger("kubeweir.streams")

_MOST: Final = 256
_ENDS: Final = 4
_RESOLVED_S: Final = 900
"""For how long Prometheus repeats what is resolved."""
Record = Mapping[str, Any]


class AlertmanagerSink:
    """One Alertmanager."""

    def __init__(self, poster: Poster, resend_s: float, clock: Callable[[], float] = time.time) -> None:
        self._poster, self._resend_s, self._clock = poster, resend_s, clock
        self._known: dict[str, Record] = {}
        self._over: dict[str, float] = {}
        self._due = float("-inf")

    def own(self, firing: Iterable[Record]) -> None:
        """What this one repeats from now on: these, and what :meth:`write` is given. None: another one does."""
        self._known = {record["fingerprint"]: record for record in firing}
        self._over, self._due = {}, float("-inf")

    def write(self, values: Sequence[bytes]) -> None:
        """Send changes, and what is due again."""
        records = [orjson.loads(value) for value in values]
        for first in range(0, len(records), _MOST):
            self._poster.post([self._made(record) for record in records[first : first + _MOST]])
        for record in records:
            self._note(record)
        if self._clock() >= self._due:
            self._resend()

    def close(self) -> None:
        """Disconnect."""
        self._poster.close()

    def _note(self, record: Record) -> None:
        name = record["fingerprint"]
        self._known[name] = record
        self._over.pop(name, None)
        if record["status"] == "resolved":
            self._over[name] = self._clock()

    def _resend(self) -> None:
        now = self._clock()
        for name in [name for name, at in self._over.items() if now - at > _RESOLVED_S]:
            del self._known[name], self._over[name]
        known = list(self._known.values())
        for first in range(0, len(known), _MOST):
            try:
                self._poster.post([self._made(record) for record in known[first : first + _MOST]])
            except RefusedError as error:
                # They were taken once, each; it has taken what it still takes.
                log.error("alerts that were taken are refused when they are sent again", error=str(error))
        self._due = now + self._resend_s

    def _made(self, record: Record) -> dict[str, Any]:
        """As the API has it."""
        ends = record.get("endsAt") or stamp(self._clock() + _ENDS * self._resend_s)
        return {
            "labels": record["labels"],
            "annotations": record["annotations"],
            "startsAt": record["startsAt"],
            "endsAt": ends,
        }
