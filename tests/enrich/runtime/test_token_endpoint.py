"""What an endpoint answers is a token that librdkafka would take, too, or an error in words without the secret."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from enrich.runtime.token_endpoint import TokenError, _unreachable, fetch_token


def jwt(**claims: Any) -> str:
    """Return a token without a signature."""
    parts = [json.dumps({"alg": "none"}), json.dumps(claims)]
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + "."


class Endpoint:
    """Answers every request with the same status and body, and keeps the requests."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, str, str]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                endpoint.requests.append((self.path, self.headers["Authorization"], body))
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(endpoint.body)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def connection(self, scope: str = "") -> dict[str, str]:
        found = {
            "sasl.oauthbearer.token.endpoint.url": f"{self.url}/token",
            "sasl.oauthbearer.client.id": "weir",
            "sasl.oauthbearer.client.secret": "s3cr3t",
        }
        return found | ({"sasl.oauthbearer.scope": scope} if scope else {})

    def gives(self, token: Any) -> None:
        self.body = json.dumps({"access_token": token}).encode()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_token_is_asked_for_by_client_credentials(endpoint: Endpoint) -> None:
    value = jwt(exp=time.time() + 300, sub="weir")
    endpoint.gives(value)
    token = fetch_token(endpoint.connection("a b"), 5)
    assert token.value == value
    assert 200 < token.lifetime_s <= 300
    assert value not in repr(token)
    ((path, authorization, body),) = endpoint.requests
    assert (path, body) == ("/token", "grant_type=client_credentials&scope=a%20b")
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"weir:s3cr3t"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("opaque", "exp and sub"),
        (jwt(sub="weir"), "exp and sub"),
        (jwt(exp=4e9), "exp and sub"),
        (jwt(exp="soon", sub="weir"), "exp and sub"),
        (jwt(exp=1, sub="weir"), "compare the clocks"),
        (jwt(exp=float("nan"), sub="weir"), "exp and sub"),
        ("a.b.c\r\nx", "is not one"),
        (None, "is not one"),
        (["a"], "is not one"),
    ],
)
def test_what_librdkafka_would_not_take_is_refused(endpoint: Endpoint, token: Any, said: str) -> None:
    endpoint.gives(token)
    with pytest.raises(TokenError, match=said):
        fetch_token(endpoint.connection(), 5)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"token": 1}', b"[" * 100_000])
def test_an_answer_without_a_token_is_refused(endpoint: Endpoint, body: bytes) -> None:
    endpoint.body = body
    with pytest.raises(TokenError, match="without an access_token"):
        fetch_token(endpoint.connection(), 5)


def test_no_redirect_is_followed(endpoint: Endpoint) -> None:
    endpoint.status, endpoint.headers = 307, {"Location": f"{endpoint.url}/other"}
    with pytest.raises(TokenError, match=r"gives no token \(307\)"):
        fetch_token(endpoint.connection(), 5)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (9, "is not valid now (why): renew the endpoint's certificate"),
        (10, "is not valid now (why): renew the endpoint's certificate"),
        (20, "is not trusted by the system's authorities (why): set WEIR_KAFKA_OAUTH_CA"),
        (62, "is for another name (why)"),
        (64, "is for another name (why)"),
    ],
)
def test_a_refused_certificate_has_the_cause_that_openssl_found(code: int, said: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "why"
    assert said in _unreachable("the token endpoint https://login", error, None)


def test_the_text_of_an_error_has_neither_the_secret_nor_control_characters(endpoint: Endpoint) -> None:
    endpoint.status = 400
    endpoint.body = json.dumps({"error": "invalid_client", "error_description": "s3cr3t is wrong\x1b[2J"}).encode()
    with pytest.raises(TokenError) as refused:
        fetch_token(endpoint.connection(), 5)
    assert "refuses the client 'weir' (400: invalid_client: … is wrong [2J)" in str(refused.value)
