"""Sends alerts to Alertmanager by its API v2, as Prometheus does (https://prometheus.io/docs/alerting/latest/clients/).

Alertmanager expects its clients to repeat firing alerts: it resolves an alert whose ``endsAt`` has passed, and it may
lose its memory in a restart. So this sink:

1. sends a change as soon as it is read from the topic;
2. sends every firing alert again each ``resend`` (1 m by default), with an ``endsAt`` four times that far ahead: if the
   workers are gone for longer than 4 m, Alertmanager resolves the alert by itself;
3. repeats a resolved alert with its ``endsAt`` for 15 minutes, in case Alertmanager restarted without its memory.

Alertmanager refuses an alert that ends before it starts, which it does if the clock of the worker that resolves it is
behind that of the worker that fired it. So no alert is sent with a start after its end or after now. An alert that is
refused even so is not repeated: Alertmanager resolves it by itself.

The topic of alerts has one partition. The worker that reads it repeats; :meth:`AlertmanagerSink.own` tells the sink.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from streams.sinks.http import Poster
from streams.sinks.sink import RefusedError, SinkError, write_in_requests
from streams.timestamps import rfc3339

log = structlog.get_logger("kubeweir.streams")

_MAX_ALERTS_PER_REQUEST: Final = 256
_ENDS_AFTER_RESENDS: Final = 4
_REPEAT_RESOLVED_S: Final = 900
"""Prometheus repeats a resolved alert for as long."""
_MAX_REPEATED: Final = 20_000
"""Alerts that are repeated, the latest. Whoever may write to the topic of alerts can name any number of them."""
AlertRecord = Mapping[str, Any]
"""A record of the topic of alerts, or what the topic of states keeps of it; it is handed on as JSON."""


class AlertmanagerSink:
    """Sends alerts to one Alertmanager."""

    def __init__(self, poster: Poster, resend_s: float, clock: Callable[[], float] = time.time) -> None:
        self._poster, self._resend_s, self._clock = poster, resend_s, clock
        self._load: Callable[[], Iterable[AlertRecord]] | None = None
        self._repeated: dict[str, AlertRecord] = {}
        self._resolved_at: dict[str, float] = {}
        self._next_resend = float("-inf")

    def own(self, load: Callable[[], Iterable[AlertRecord]] | None) -> None:
        """Repeat the alerts that ``load`` returns from now on, and what :meth:`write` is given; None if another worker
        repeats them. ``load`` is called by the next write, and may raise SinkError."""
        self._load, self._repeated = load, {}
        self._resolved_at, self._next_resend = {}, float("-inf")

    def write(self, values: Sequence[bytes]) -> None:
        """Send the changes, and repeat alerts if it is time. Raises SinkError, RefusedError."""
        if self._load is not None:
            self._repeated = {record["fingerprint"]: record for record in self._load()}
            self._load = None
            self._bound()
        write_in_requests(values, _MAX_ALERTS_PER_REQUEST, self._send)
        left = self._next_resend - self._clock()
        # More is left than a whole interval if the clock was ahead and is set back.
        if left <= 0 or left > self._resend_s:
            self._resend(len(values))

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _send(self, values: Sequence[bytes]) -> None:
        records = [orjson.loads(value) for value in values]
        try:
            self._post(records)
        except RefusedError:
            # A refused one of several is looked for by the caller.
            if len(records) == 1:
                self._forget(records[0]["fingerprint"])
            raise
        for record in records:
            self._remember(record)

    def _remember(self, record: AlertRecord) -> None:
        name = record["fingerprint"]
        self._repeated.pop(name, None)
        self._repeated[name] = record
        self._bound()
        self._resolved_at.pop(name, None)
        if record["status"] == "resolved":
            self._resolved_at[name] = self._clock()

    def _bound(self) -> None:
        """Forget the oldest alerts if there are too many, and a tenth more, so that it is not due again at once."""
        excess = len(self._repeated) - _MAX_REPEATED
        if excess <= 0:
            return
        oldest = list(self._repeated)[: excess - 1 + _MAX_REPEATED // 10]
        log.error("there are too many alerts to repeat; Alertmanager will resolve the oldest", alerts=len(oldest))
        for evicted in oldest:
            self._forget(evicted)

    def _forget(self, name: str) -> None:
        self._repeated.pop(name, None)
        self._resolved_at.pop(name, None)

    def _resend(self, done: int) -> None:
        now = self._clock()
        for name in [name for name, at in self._resolved_at.items() if now - at > _REPEAT_RESOLVED_S]:
            self._forget(name)
        repeated = list(self._repeated.values())
        parts = [
            repeated[first : first + _MAX_ALERTS_PER_REQUEST]
            for first in range(0, len(repeated), _MAX_ALERTS_PER_REQUEST)
        ]
        while parts:
            part = parts.pop()
            try:
                self._post(part)
            except RefusedError as error:
                half = len(part) // 2
                parts += [part[half:], part[:half]] if half else []
                if not half:
                    # It was accepted when it was new. Refusing here must not send records to the dead-letter topic.
                    self._forget(part[0]["fingerprint"])
                    log.error(
                        "Alertmanager refuses an alert that it accepted before; it is not repeated any more",
                        labels=part[0]["labels"], error=str(error),
                    )  # fmt: skip
            except SinkError as error:
                error.done = done
                raise
        self._next_resend = now + self._resend_s

    def _post(self, records: Sequence[AlertRecord]) -> None:
        self._poster.post([self._to_api(record) for record in records])

    def _to_api(self, record: AlertRecord) -> dict[str, Any]:
        now = self._clock()
        ends = record.get("endsAt")
        # All of these times have the same form, so that their order is that of their texts.
        ends_at = min(ends, rfc3339(now)) if ends else rfc3339(now + _ENDS_AFTER_RESENDS * self._resend_s)
        return {
            "labels": record["labels"],
            "annotations": record["annotations"],
            "startsAt": min(record["startsAt"], ends_at, rfc3339(now)),
            "endsAt": ends_at,
        }
