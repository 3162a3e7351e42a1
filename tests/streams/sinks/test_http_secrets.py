"""Requests to receivers: no secret of an address or header in a text, no .netrc, no redirect, own certificates."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from streams.sinks.http import Poster
from streams.sinks.http_session import redacted
from streams.sinks.sink import RefusedError, SinkError

SECRET = "T0000/B0000/HOOKSECRET"  # noqa: S105 - a test's
USER = "weir:AMSECRET"


class _Receiver(ThreadingHTTPServer):
    """A receiver that quotes the request in its answers, as many do."""

    status = 200
    location = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Receiver

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers)))
        text = f"Cannot POST {self.path} with {self.headers.get('Authorization')}".encode()
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def receiver() -> Iterator[_Receiver]:
    made = _Receiver()
    yield made
    made.close()


def _poster(url: str, **headers: str) -> Poster:
    return Poster(url, lambda: headers, 5)


@pytest.mark.parametrize("status", [500, 400, 401, 302])
def test_no_text_holds_a_secret_of_the_address_or_of_a_header(receiver: _Receiver, status: int) -> None:
    receiver.status = status
    url = f"http://{USER}@127.0.0.1:{receiver.server_port}/services/{SECRET}?token=QUERYSECRET"
    with pytest.raises((SinkError, RefusedError)) as raised:
        _poster(url, **{"X-Key": "HEADERSECRET"}).post({})
    _silent(raised)
    assert f"http://127.0.0.1:{receiver.server_port}: {status}" in str(raised.value)


def test_no_text_holds_a_secret_of_an_address_that_cannot_be_reached() -> None:
    for host in ("127.0.0.1:1", "receiver.invalid"):
        with pytest.raises(SinkError) as raised:
            _poster(f"http://{USER}@{host}/services/{SECRET}?token=QUERYSECRET").post({})
        _silent(raised)
        assert f"http://{host}: ConnectionError" in str(raised.value)


def _silent(raised: pytest.ExceptionInfo[BaseException]) -> None:
    text = f"{raised.value!r} {raised.value.__cause__!r}"
    for secret in ("HOOKSECRET", "AMSECRET", "QUERYSECRET", "HEADERSECRET", "T0000"):
        assert secret not in text


def test_a_user_comes_from_the_address_and_never_from_netrc(
    receiver: _Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password NETRCSECRET\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    _poster(f"http://127.0.0.1:{receiver.server_port}/").post({})
    _poster(f"http://weir:p%40ss@127.0.0.1:{receiver.server_port}/").post({})
    assert "Authorization" not in receiver.seen[0][1]
    assert receiver.seen[1][1]["Authorization"] == "Basic d2VpcjpwQHNz"


def test_no_credential_follows_a_redirect(receiver: _Receiver) -> None:
    other = _Receiver()
    receiver.status, receiver.location = 307, f"http://127.0.0.1:{other.server_port}/"
    with pytest.raises(SinkError, match=": 307"):
        _poster(f"http://127.0.0.1:{receiver.server_port}/", **{"X-Key": "HEADERSECRET"}).post({})
    other.close()
    assert other.seen == []


def test_a_proxy_is_given_nothing_to_read(receiver: _Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        _poster(f"http://127.0.0.1:{receiver.server_port}/{SECRET}").post({})
        assert len(receiver.seen) == 1
        seen: list[bytes] = []

        def answer() -> None:
            with proxy.accept()[0] as accepted:
                seen.append(accepted.recv(65536))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SinkError):
            _poster(f"https://hooks.example.com/{SECRET}", **{"X-Key": "HEADERSECRET"}).post({})
        thread.join(60)
    assert seen[0].startswith(b"CONNECT hooks.example.com:443 ")
    assert b"SECRET" not in seen[0]


def test_a_renewed_header_is_used_by_the_next_request(receiver: _Receiver) -> None:
    token = ["one"]
    poster = Poster(f"http://127.0.0.1:{receiver.server_port}/", lambda: {"Authorization": f"Bearer {token[0]}"}, 5)
    poster.post({})
    token[0] = "two"
    poster.post({})
    assert [headers["Authorization"] for _, headers in receiver.seen] == ["Bearer one", "Bearer two"]


def test_an_output_has_its_own_authority_and_client_certificate(receiver: _Receiver, tmp_path: Path) -> None:
    for name, more in (("server", ["-addext", "subjectAltName=IP:127.0.0.1"]), ("client", [])):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout",
                   f"{name}.key", "-out", f"{name}.crt", *more]  # fmt: skip
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    context.load_verify_locations(tmp_path / "client.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    # The handshake takes place when the first byte is read, on the connection's thread.
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True, do_handshake_on_connect=False)
    url, own = (
        f"https://127.0.0.1:{receiver.server_port}/",
        (str(tmp_path / "client.crt"), str(tmp_path / "client.key")),
    )
    with pytest.raises(SinkError, match="SSLError"):
        Poster(url, dict, 5, certificate=own).post({})
    with pytest.raises(SinkError):
        Poster(url, dict, 5, ca=str(tmp_path / "server.crt")).post({})
    Poster(url, dict, 5, ca=str(tmp_path / "server.crt"), certificate=own).post({})
    assert len(receiver.seen) == 1


def test_short_parts_of_an_address_stay_in_a_text() -> None:
    assert redacted("bad path /api/v2/alerts", "http://am:9093/x", {}) == "bad path /api/v2/alerts"
