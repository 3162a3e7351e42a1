"""Sessions for HTTP requests to receivers whose addresses and headers are secrets, and texts without these.

Neither ``.netrc`` nor a redirect decides to whom a credential goes, and no proxy is given one to read. What texts may
hold of an address says :mod:`streams.config.url_text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import requests

from streams.config.url_text import user_of

_MIN_SECRET: Final = 4
"""Shorter parts of an address, such as ``api`` or ``v2``, are not looked for in an answer."""


class Session(requests.Session):  # type: ignore[misc]  # requests has no types
    """A session that follows no redirect, and takes credentials from the address only."""

    def __init__(self, url: str, ca: str | None = None, certificate: tuple[str, str] | None = None) -> None:
        """``ca`` and ``certificate`` (with its key) are PEM files, which each new connection reads again."""
        super().__init__()
        # With any `auth`, requests does not look into .netrc, which may have a password for this host.
        self.auth: Any = user_of(url) or _no_credentials
        # What is not encrypted never goes by the proxy in http_proxy, which would see the path and the headers. By that
        # in https_proxy it sees the host only.
        self.trust_env = urlsplit(url).scheme == "https"
        self.verify = ca or True
        self.cert = certificate

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request; an answer that redirects is returned as it is."""
        options["allow_redirects"] = False
        # requests prefers a bundle from the environment to the session's.
        options["verify"] = self.verify if options.get("verify") is None else options["verify"]
        return super().request(*arguments, **options)


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def redacted(text: str, url: str, headers: Mapping[str, str]) -> str:
    """Return a text without the parts of an address and the values of headers, which an answer may quote."""
    parts = urlsplit(url)
    secrets = {url, f"{parts.path}?{parts.query}", parts.path, parts.query, *headers.values()}
    secrets |= {value.rpartition(" ")[2] for value in headers.values()}
    secrets |= {parts.username or "", parts.password or "", *parts.path.split("/"), *parts.query.split("&")}
    secrets |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, "…")
    return text


def cause(error: BaseException) -> str:
    """Return what went wrong with a request, without its address, which the texts of requests and urllib3 hold."""
    found: BaseException = error
    while True:
        inner = getattr(found, "reason", None)
        inner = inner if isinstance(inner, BaseException) else next(
            (one for one in found.args if isinstance(one, BaseException)), None
        )  # fmt: skip
        if inner is None:
            break
        found = inner
    if isinstance(found, OSError) and found.strerror:
        return f"{type(found).__name__}: {found.strerror}"
    return type(found).__name__
