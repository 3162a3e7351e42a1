"""Requests that foreign pages could have made are refused, and every answer carries the policy of the page."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from enrich.runtime.settings import SettingsError
from streams.web.guard import HEADERS, PageGuard, allowed_names, host_name


async def _answer(_: Request) -> PlainTextResponse:
    return PlainTextResponse("yes")


GUARD = PageGuard(Starlette(routes=[Route("/", _answer)]), allowed_names(("weir.example.com",)))


@pytest.mark.parametrize(
    ("headers", "path", "passes"),
    [
        ({"host": "localhost:9700"}, "/", True),
        ({"host": "127.0.0.1"}, "/api/live", True),
        ({"host": "[::1]:9700"}, "/", True),
        ({"host": "WEIR.example.com."}, "/", True),
        ({}, "/", False),
        ({"host": "evil.example"}, "/", False),
        ({"host": "127.0.0.1.evil.example"}, "/", False),
        ({"host": "127.0.0.1@evil.example"}, "/", False),
        ({"host": "evil.example#localhost"}, "/", False),
        ({"host": "10.0.0.7:9700"}, "/", False),
        ({"host": "["}, "/", False),
        ({"host": "localhost:9700", "origin": "http://localhost:9700"}, "/api/live", True),
        ({"host": "localhost:9700", "origin": "http://localhost:3000"}, "/api/live", False),
        ({"host": "localhost:9700", "origin": "null"}, "/api/live", False),
        ({"host": "localhost:9700", "origin": "http://evil.example"}, "/", False),
        ({"host": "localhost:9700", "sec-fetch-site": "same-origin"}, "/api/live", True),
        ({"host": "localhost:9700", "sec-fetch-site": "cross-site"}, "/api/live", False),
        ({"host": "localhost:9700", "sec-fetch-site": "same-site"}, "/api/live", False),
        ({"host": "localhost:9700", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "/", True),
        ({"host": "localhost:9700", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "/api/x", False),
    ],
)
def test_only_the_pages_own_requests_are_answered(headers: dict[str, str], path: str, passes: bool) -> None:
    assert (GUARD.refusal(Headers(headers), "GET", path) is None) is passes


def test_two_hosts_are_none() -> None:
    raw = [(b"host", b"localhost"), (b"host", b"evil.example")]
    assert GUARD.refusal(Headers(raw=raw), "GET", "/") is not None


def test_other_methods_are_refused() -> None:
    assert GUARD.refusal(Headers({"host": "localhost"}), "DELETE", "/") is not None


async def _headers_of(host: str) -> tuple[int, dict[str, str]]:
    sent: list[dict[str, object]] = []
    scope = {
        "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "",
        "headers": [(b"host", host.encode())], "http_version": "1.1", "scheme": "http",
    }  # fmt: skip

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await GUARD(scope, None, send)  # type: ignore[arg-type]
    headers = sent[0]["headers"]
    assert isinstance(headers, list)
    status = sent[0]["status"]
    assert isinstance(status, int)
    return status, {name.decode(): value.decode() for name, value in headers}


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("evil.example", 403)])
def test_every_answer_carries_the_policy(host: str, status: int) -> None:
    import asyncio

    found, headers = asyncio.run(_headers_of(host))
    assert found == status
    for name, value in HEADERS.items():
        assert headers[name.lower()] == value
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_names_are_checked() -> None:
    assert host_name("Example.com:80") == "example.com"
    with pytest.raises(SettingsError, match="WEIR_WEB_HOSTS"):
        allowed_names(("https://",))
