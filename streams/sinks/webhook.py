"""Sends alerts to a webhook, as a JSON array of records as they are on the topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from streams.sinks.http import Poster
from streams.sinks.sink import write_in_requests

_MAX_ALERTS_PER_REQUEST: Final = 100


class WebhookSink:
    """Sends each change of an alert once, and again only if the answer to the first request was lost."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster

    def write(self, values: Sequence[bytes]) -> None:
        """POST the records. Raises SinkError, RefusedError."""
        write_in_requests(values, _MAX_ALERTS_PER_REQUEST, self._send)

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _send(self, values: Sequence[bytes]) -> None:
        self._poster.post([orjson.loads(value) for value in values])
