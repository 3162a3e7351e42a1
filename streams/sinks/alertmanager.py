"""Sends alerts to Alertmanager by its API v2, as Prometheus does (https://prometheus.io/docs/alerting/latest/clients/).

Alertmanager expects its clients to repeat firing alerts: it resolves an alert whose ``endsAt`` has passed, and it may
lose its memory in a restart. So this sink:

1. sends a change as soon as it is read from the topic;
2. sends every firing alert again each ``resend`` (1 m by default), with an ``endsAt`` four times that far ahead: if the
   workers are gone for longer than 4 m, Alertmanager resolves the alert by itself;
3. repeats a resolved alert with its ``endsAt`` for 15 minutes, in case Alertmanager restarted without its memory.

The topic of alerts has one partition. The worker that reads it repeats; :meth:`AlertmanagerSink.own` tells the sink.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from streams.sinks.http import Poster
from streams.sinks.sink import RefusedError
from streams.timestamps import rfc3339

log = structlog.get_logger("kubeweir.streams")

_MAX_ALERTS_PER_REQUEST: Final = 256
_ENDS_AFTER_RESENDS: Final = 4
_REPEAT_RESOLVED_S: Final = 900
"""Prometheus repeats a resolved alert for as long."""
AlertRecord = Mapping[str, Any]
"""A record of the topic of alerts, or what the topic of states keeps of it; it is handed on as JSON."""


class AlertmanagerSink:
    """Sends alerts to one Alertmanager."""

    def __init__(self, poster: Poster, resend_s: float, clock: Callable[[], float] = time.time) -> None:
        self._poster, self._resend_s, self._clock = poster, resend_s, clock
        self._repeated: dict[str, AlertRecord] = {}
        self._resolved_at: dict[str, float] = {}
        self._next_resend = float("-inf")

    def own(self, firing: Iterable[AlertRecord]) -> None:
        """Repeat these alerts from now on, and what :meth:`write` is given; empty if another worker repeats them."""
        self._repeated = {record["fingerprint"]: record for record in firing}
        self._resolved_at, self._next_resend = {}, float("-inf")

    def write(self, values: Sequence[bytes]) -> None:
        """Send the changes, and repeat alerts if it is time. Raises SinkError, RefusedError."""
        records = [orjson.loads(value) for value in values]
        for first in range(0, len(records), _MAX_ALERTS_PER_REQUEST):
            self._poster.post([self._to_api(record) for record in records[first : first + _MAX_ALERTS_PER_REQUEST]])
        for record in records:
            self._remember(record)
        if self._clock() >= self._next_resend:
            self._resend()

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _remember(self, record: AlertRecord) -> None:
        name = record["fingerprint"]
        self._repeated[name] = record
        self._resolved_at.pop(name, None)
        if record["status"] == "resolved":
            self._resolved_at[name] = self._clock()

    def _resend(self) -> None:
        now = self._clock()
        for name in [name for name, at in self._resolved_at.items() if now - at > _REPEAT_RESOLVED_S]:
            del self._repeated[name], self._resolved_at[name]
        repeated = list(self._repeated.values())
        for first in range(0, len(repeated), _MAX_ALERTS_PER_REQUEST):
            try:
                chunk = repeated[first : first + _MAX_ALERTS_PER_REQUEST]
                self._poster.post([self._to_api(record) for record in chunk])
            except RefusedError as error:
                # Each was accepted when it was new. Refusing here must not send records to the dead-letter topic.
                log.error("Alertmanager refuses to take alerts again that it accepted before", error=str(error))
        self._next_resend = now + self._resend_s

    def _to_api(self, record: AlertRecord) -> dict[str, Any]:
        ends_at = record.get("endsAt") or rfc3339(self._clock() + _ENDS_AFTER_RESENDS * self._resend_s)
        return {
            "labels": record["labels"],
            "annotations": record["annotations"],
            "startsAt": record["startsAt"],
            "endsAt": ends_at,
        }
