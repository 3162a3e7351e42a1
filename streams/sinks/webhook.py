"""Alerts to any webhook: a JSON array of records as they are on the topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from streams.sinks.http import Poster

_MOST: Final = 100


class WebhookSink:
    """One address. A change is sent once, and once more only if it is not known whether it was taken."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster

    def write(self, values: Sequence[bytes]) -> None:
        """Some requests."""
        for first in range(0, len(values), _MOST):
            self._poster.post([orjson.loads(value) for value in values[first : first + _MOST]])

    def close(self) -> None:
        """Disconnect."""
        self._poster.close()
