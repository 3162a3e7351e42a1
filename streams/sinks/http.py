"""POSTs to the receivers of alerts and logs, and decides from the answer whether to retry.

A status alone does not say whose fault an error is. So only those statuses that speak about the content are taken as a
refusal of the records, and not if the answer says that the address is wrong. With any other error the records may be
good: the cause passes, or an operator can remove it (credentials, a path, a proxy), and the sink retries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import requests

from enrich.runtime.process import StopServiceError
from enrich.runtime.retry_after import retry_after_s
from streams.config.url_text import shown, without_user
from streams.sinks.http_session import Session, cause, redacted
from streams.sinks.sink import RefusedError, SinkError

_CONTENT_STATUSES: Final = frozenset({400, 409, 413, 422})
"""Bad Request, Conflict, Content Too Large, Unprocessable Content: the receiver refuses what it was sent."""
_WRONG_SCHEME: Final = ("HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port")
"""What servers of Go, and nginx, answer with the status 400 if they expect TLS: the URL is wrong, not the content."""
_MAX_SHOWN_BYTES: Final = 4096
_MAX_ANSWER_BYTES: Final = 1 << 20
"""The rest of a longer answer is not read."""

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]
"""HTTP headers; a function is called for each request, because a token may be renewed. It raises StopServiceError."""


class Poster:
    """POSTs to one URL with one session. Redirects are not followed: they count as an error that an operator mends."""

    def __init__(
        self,
        url: str,
        headers: Headers,
        timeout_s: float,
        ca: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        """``ca`` and ``certificate`` (with its key) are PEM files, which each new connection reads again."""
        self._sent: Mapping[str, str] = {}
        """The headers of the last request, which an answer may quote."""
        self._url, self._headers, self._timeout_s = url, headers, timeout_s
        self.shown = shown(url)
        """What texts may hold of the address: scheme, host and port."""
        self._session = Session(url, ca, certificate)

    def post(self, value: Any) -> None:
        """Return when the receiver has accepted the value. Raises SinkError, RefusedError."""
        self.post_bytes(orjson.dumps(value), {})

    def post_bytes(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Return the answer when the receiver has accepted the body. Raises SinkError, RefusedError."""
        try:
            self._sent = self._headers() if callable(self._headers) else self._headers
        except StopServiceError as error:
            raise SinkError(str(error)) from error
        all_headers = {"Content-Type": "application/json", **self._sent, **headers}
        try:
            with self._session.post(
                without_user(self._url), body, headers=all_headers, timeout=self._timeout_s, stream=True
            ) as answer:
                content = _read(answer)
        except (requests.RequestException, OSError) as error:
            # The error's own text holds the address, and with it the webhook's secret.
            raise SinkError(f"{self.shown}: {type(error).__name__}: {cause(error)}") from None
        if not 200 <= answer.status_code < 300:
            text = self.redacted(content[:_MAX_SHOWN_BYTES].decode(errors="replace"))[:200]
            raise error_of(answer.status_code, answer.headers, f"{self.shown}: {answer.status_code} {text}")
        return content

    def redacted(self, text: str) -> str:
        """Return a receiver's text without what is secret of the address and of the headers."""
        return redacted(text, self._url, self._sent)

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
