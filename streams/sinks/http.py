"""POST of JSON to a far end of alerts, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
import requests

from streams.sinks.sink import RefusedError, SinkError

_AGAIN: Final = frozenset({401, 403, 404, 407, 408, 425, 429})
"""And whatever begins with 5: what passes, or the operator can mend. Any other answer is about what was sent."""


class Poster:
    """One address."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._session = requests.Session()
        self._session.headers.update({"Content-Type": "application/json", **headers})

    def post(self, value: Any) -> None:
        """Returns when it was taken. Raises SinkError, RefusedError."""
        try:
            answer = self._session.post(self._url, orjson.dumps(value), timeout=self._timeout_s, allow_redirects=False)
        except requests.RequestException as error:
            raise SinkError(f"{self._url}: {type(error).__name__}: {error}") from error
        if answer.ok and not answer.is_redirect:
            return
        told = f"{self._url}: {answer.status_code} {answer.text[:200]}"
        if answer.status_code in _AGAIN or answer.status_code >= 500 or answer.is_redirect:
            raise SinkError(told)
        raise RefusedError(told)

    def close(self) -> None:
        """Disconnect."""
        self._session.close()
