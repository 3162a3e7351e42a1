"""POSTs JSON to the receivers of alerts, and decides from the answer whether to retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
import requests

from streams.sinks.sink import RefusedError, SinkError

_RETRIED_STATUSES: Final = frozenset({401, 403, 404, 407, 408, 425, 429})
"""Retried like every 5xx: the cause passes, or an operator can remove it (credentials, a wrong path). Any other 4xx
means that the receiver refuses the content."""


class Poster:
    """POSTs to one URL with one session. Redirects are not followed: they count as an error that an operator mends."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._session = requests.Session()
        self._session.headers.update({"Content-Type": "application/json", **headers})

    def post(self, value: Any) -> None:
        """Return when the receiver has accepted the value. Raises SinkError, RefusedError."""
        try:
            answer = self._session.post(self._url, orjson.dumps(value), timeout=self._timeout_s, allow_redirects=False)
        except requests.RequestException as error:
            raise SinkError(f"{self._url}: {type(error).__name__}: {error}") from error
        if answer.ok and not answer.is_redirect:
            return
        text = f"{self._url}: {answer.status_code} {answer.text[:200]}"
        if answer.status_code in _RETRIED_STATUSES or answer.status_code >= 500 or answer.is_redirect:
            raise SinkError(text)
        raise RefusedError(text)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()
