"""POSTs to the receivers of alerts and logs, and decides from the answer whether to retry.

A status alone does not say whose fault an error is. So only those statuses that speak about the content are taken as a
refusal of the records, and not if the answer says that the address is wrong. With any other error the records may be
good: the cause passes, or an operator can remove it (credentials, a path, a proxy), and the sink retries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
import requests

from enrich.runtime.retry_after import retry_after_s
from streams.sinks.sink import RefusedError, SinkError

_CONTENT_STATUSES: Final = frozenset({400, 409, 413, 422})
"""Bad Request, Conflict, Content Too Large, Unprocessable Content: the receiver refuses what it was sent."""
_WRONG_SCHEME: Final = ("HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port")
"""What servers of Go, and nginx, answer with the status 400 if they expect TLS: the URL is wrong, not the content."""
_MAX_ANSWER_BYTES: Final = 1 << 20
"""The rest of a longer answer is not read."""


class Poster:
    """POSTs to one URL with one session. Redirects are not followed: they count as an error that an operator mends."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self.url, self._timeout_s = url, timeout_s
        self._session = requests.Session()
        self._session.headers.update({"Content-Type": "application/json", **headers})

    def post(self, value: Any) -> None:
        """Return when the receiver has accepted the value. Raises SinkError, RefusedError."""
        self.post_bytes(orjson.dumps(value), {})

    def post_bytes(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Return the answer when the receiver has accepted the body. Raises SinkError, RefusedError."""
        try:
            with self._session.post(
                self.url, body, headers=headers, timeout=self._timeout_s, allow_redirects=False, stream=True
            ) as answer:
                content = _read(answer)
        except requests.RequestException as error:
            raise SinkError(f"{self.url}: {type(error).__name__}: {error}") from error
        if not (answer.ok and not answer.is_redirect):
            text = content[:200].decode(errors="replace")
            raise error_of(answer.status_code, answer.headers, f"{self.url}: {answer.status_code} {text}")
        return content

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def error_of(status: int, headers: Mapping[str, str], message: str) -> SinkError | RefusedError:
    """Return the error of an answer: RefusedError if the receiver will never accept what it was sent."""
    if status in _CONTENT_STATUSES and not any(text in message for text in _WRONG_SCHEME):
        return RefusedError(message)
    return SinkError(message, retry_after_s=retry_after_s(headers))


def _read(answer: requests.Response) -> bytes:
    content = b""
    for chunk in answer.iter_content(1 << 16):
        content += chunk
        if len(content) >= _MAX_ANSWER_BYTES:
            break
    return content
