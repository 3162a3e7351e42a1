"""Sends alerts to a webhook, as a JSON array of records as they are on the topic.

A new webhook is not told of the past: it begins with the alerts that fire now, and is sent every change after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from streams.sinks.http import Poster
from streams.sinks.sink import RefusedError, SinkError, write_in_requests

log = structlog.get_logger("kubeweir.streams")

_MAX_ALERTS_PER_REQUEST: Final = 100


class WebhookSink:
    """Sends each change of an alert once, and again only if the answer to the first request was lost."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster
        self._load: Callable[[], Iterable[Mapping[str, Any]]] | None = None
        self._first: list[list[bytes]] = []
        """Requests with the alerts that a new webhook begins with."""
        self._initial_ids: set[str] = set()
        """Their ids: the topic may show them once more."""

    def begin(self, load: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Send the alerts that ``load`` returns first. It is called by the next write, and may raise SinkError."""
        self._load = load

    def write(self, values: Sequence[bytes]) -> None:
        """POST the records. Raises SinkError, RefusedError."""
        if self._load is not None:
            # Those that are in this write already take the usual way, on which a refused one is a dead letter.
            here = {orjson.loads(value).get("id") for value in values}
            records = [record for record in self._load() if record.get("id") not in here]
            firing = [orjson.dumps(record) for record in records]
            starts = range(0, len(firing), _MAX_ALERTS_PER_REQUEST)
            self._first = [firing[start : start + _MAX_ALERTS_PER_REQUEST] for start in starts]
            self._load, self._initial_ids = None, {record["id"] for record in records if "id" in record}
        self._send_first()
        write_in_requests(values, _MAX_ALERTS_PER_REQUEST, self._send_new)

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _send_first(self) -> None:
        while self._first:
            part = self._first.pop()
            try:
                self._send(part)
            except RefusedError as error:
                half = len(part) // 2
                self._first += [part[half:], part[:half]] if half else []
                if not half:
                    # If the topic shows it once more, it takes the usual way.
                    self._initial_ids.discard(orjson.loads(part[0]).get("id"))
                    log.warning("a new webhook refuses an alert that fires; it is left out", error=str(error))
            except SinkError:
                self._first.append(part)
                raise

    def _send_new(self, values: Sequence[bytes]) -> None:
        # An alert may have fired after the place where the group begins, and before the firing ones were read.
        new = [value for value in values if orjson.loads(value).get("id") not in self._initial_ids]
        if new:
            self._send(new)

    def _send(self, values: Sequence[bytes]) -> None:
        self._poster.post([orjson.loads(value) for value in values])
