"""Refuses requests that a foreign page could have made a browser send, and says what a browser may do with the page.

A page on any site can send requests to a loopback address. What protects this one:

- *Host.* By DNS rebinding, a foreign name comes to mean 127.0.0.1, and the foreign page may read the answers. Its
  requests have the foreign name in ``Host``, so that only known names are answered.
- *Origin.* A request from a page of another origin has that in ``Origin`` or ``Sec-Fetch-Site``. It is refused, except
  for the page itself: a link on a wiki must work.
- *No cookies.* A token travels in a header, which no foreign page can add.
- *Content-Security-Policy.* Scripts and styles are the page's own files; no text can become a script or markup, because
  ``require-trusted-types-for`` forbids to make markup of texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enrich.runtime.settings import SettingsError
from streams.web.views import PATHS

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_METHODS: Final = frozenset({"GET", "HEAD", "POST"})


def host_name(text: str) -> str:
    """Return the name in a ``Host`` header, without its port, in lower case; empty if it is none."""
    try:
        return (urlsplit(f"//{text}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def allowed_names(hosts: Collection[str]) -> frozenset[str]:
    """Return the names under which the page answers. Raises SettingsError."""
    if not all(map(_NAME.fullmatch, hosts)):
        raise SettingsError("WEIR_WEB_HOSTS: write names such as weir.example.com, comma-separated")
    return LOOPBACK_NAMES | {host_name(host) for host in hosts}


class PageGuard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered, with the headers that protect the page."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        why = self.refusal(Headers(scope=scope), scope["method"], scope["path"])
        app = self._app if why is None else PlainTextResponse(f"{why}\n", 403)
        await app(scope, receive, send_with_headers)

    def refusal(self, headers: Headers, method: str, path: str) -> str | None:
        """Return why a request is refused, or None."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or host_name(host) not in self._names:
            return "this name is not the page's: open it as localhost, or add the name to WEIR_WEB_HOSTS"
        if method not in _METHODS:
            return "the page takes GET, HEAD and POST"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return "requests of other pages are refused"
        is_link = method == "GET" and path in PATHS and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_link:
            return "requests of other pages are refused"
        return None


def _netloc(origin: str) -> str:
    """Return host and port of an ``Origin`` header; empty if it has none, as ``null`` does."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
