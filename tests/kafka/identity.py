"""An OAuth token endpoint whose tokens a test's Kafka takes: client credentials over TLS, keys over plain HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = "kubeweir-test"
"""The issuer and the audience that the broker expects."""


@dataclass
class Client:
    """A client of the endpoint, and what its tokens are like."""

    secret: str
    lifetime_s: int = 300
    audience: str = NAME
    scope: str = ""
    """The scope that it must ask for."""
    agents: list[str] = field(default_factory=list)
    """Who asked for each of its tokens, by User-Agent: librdkafka has none."""


@dataclass
class IdentityProvider:
    """The endpoint. Its authority signs its certificate only."""

    folder: Path
    clients: dict[str, Client] = field(default_factory=dict)
    url: str = ""
    """Of the token endpoint."""
    keys_url: str = ""

    @property
    def ca(self) -> Path:
        """The certificate of the endpoint, which is its own authority."""
        return self.folder / "endpoint.crt"

    def env(self, client_id: str, **more: str) -> dict[str, str]:
        """Return the settings by which a service asks as this client."""
        secret = self.folder / f"{client_id}.secret"
        secret.write_text(self.clients[client_id].secret)
        return {
            "WEIR_KAFKA_MECHANISM": "OAUTHBEARER",
            "WEIR_KAFKA_OAUTH_URL": self.url,
            "WEIR_KAFKA_OAUTH_CLIENT_ID": client_id,
            "WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE": str(secret),
            "WEIR_KAFKA_OAUTH_SCOPE": self.clients[client_id].scope,
            "WEIR_KAFKA_OAUTH_CA": str(self.ca),
            **more,
        }

    def keys(self) -> dict[str, Any]:
        """Return the key set with which the broker checks tokens."""
        command = ["openssl", "rsa", "-in", "token.key", "-noout", "-modulus"]
        modulus = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout
        number = bytes.fromhex(modulus.strip().partition("=")[2])
        return {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": _encode(number), "e": "AQAB"}]}

    def token(self, client_id: str) -> str:
        """Sign a token for a client."""
        client, now = self.clients[client_id], int(time.time())
        claims = {"sub": client_id, "iss": NAME, "aud": client.audience, "iat": now, "exp": now + client.lifetime_s}
        head = _encode(json.dumps({"alg": "RS256", "kid": "1", "typ": "JWT"}).encode())
        text = f"{head}.{_encode(json.dumps(claims).encode())}"
        command = ["openssl", "dgst", "-sha256", "-sign", "token.key"]
        signed = subprocess.run(command, cwd=self.folder, input=text.encode(), check=True, capture_output=True)
        return f"{text}.{_encode(signed.stdout)}"

    def answer(self, authorization: str, agent: str, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """Answer a request for a token (RFC 6749, 4.4)."""
        client_id, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        client = self.clients.get(client_id)
        if client is None or client.secret != secret:
            return 401, {"error": "invalid_client", "error_description": f"{secret} is not the secret"}
        if form.get("grant_type") != ["client_credentials"]:
            return 400, {"error": "unsupported_grant_type"}
        if form.get("scope", [""]) != [client.scope]:
            return 400, {"error": "invalid_scope"}
        client.agents.append(agent)
        return 200, {"access_token": self.token(client_id), "token_type": "Bearer", "expires_in": client.lifetime_s}


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextlib.contextmanager
def run_identity_provider(folder: Path) -> Iterator[IdentityProvider]:
    """Run an endpoint during the block."""
    folder.mkdir()
    commands = [
        ["genrsa", "-out", "token.key", "2048"],
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=endpoint", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", "endpoint.key", "-out", "endpoint.crt"],
    ]  # fmt: skip
    for arguments in commands:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    made = IdentityProvider(folder)
    keys = json.dumps(made.keys()).encode()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            self._send(200, keys)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.path != "/token":
                self._send(404, b"no such page")
                return
            form = urllib.parse.parse_qs(body)
            status, answer = made.answer(self.headers["Authorization"], self.headers.get("User-Agent", ""), form)
            self._send(status, json.dumps(answer).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "endpoint.crt", folder / "endpoint.key")
    tokens, plain = ThreadingHTTPServer(("127.0.0.1", 0), Handler), ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # The handshake is done by each connection's own thread.
    tokens.socket = context.wrap_socket(tokens.socket, server_side=True, do_handshake_on_connect=False)
    made.url = f"https://127.0.0.1:{tokens.server_address[1]}/token"
    made.keys_url = f"http://127.0.0.1:{plain.server_address[1]}/keys"
    for server in (tokens, plain):
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield made
    finally:
        for server in (tokens, plain):
            server.shutdown()
            server.server_close()
