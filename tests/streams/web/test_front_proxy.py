"""The user headers of a front proxy, over real TLS: believed with an allowed certificate, and else for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from enrich.runtime.renewed_certificate import RenewedCertificate
from enrich.runtime.settings import SettingsError, load
from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, TokenGate
from enrich.sources.client import Client
from enrich.sources.token_review import user_text, users_reviewer
from streams.metrics.web import WebMetrics
from streams.settings import Settings
from streams.web import front_proxy
from streams.web.answers import Answers
from streams.web.app import Page
from streams.web.feed import FlowFeed
from streams.web.flows import VIEWS_EACH
from streams.web.front_proxy import FrontProxy, HeaderError, user_of
from streams.web.role import _listening, _serve, check_web
from tests.authority import Authority

Header = tuple[str, str | bytes]
ANN = ("X-Remote-User", "ann")


@dataclass
class Served:
    """The page behind TLS, without Kafka, and what its gates were asked."""

    folder: Path
    port: int
    proxies: Authority
    page: Authority
    asked: list[str] = field(default_factory=list)

    def connect(self, files: tuple[Path, Path] | None) -> http.client.HTTPSConnection:
        """Connect with a client certificate, or without."""
        context = ssl.create_default_context(cafile=str(self.page.file))
        if files is not None:
            context.load_cert_chain(*files)
        return http.client.HTTPSConnection("localhost", self.port, context=context, timeout=240)

    def ask(self, files: tuple[Path, Path] | None, *headers: Header, path: str = "/api/session") -> tuple[int, Any]:
        """Return the status and the answer of a request with these headers."""
        connection = self.connect(files)
        with contextlib.closing(connection):
            return ask(connection, headers, path)

    def proxy(self, subject: str = "/CN=proxy", **more: Any) -> tuple[Path, Path]:
        return self.proxies.sign(subject, **more)


def ask(
    connection: http.client.HTTPConnection, headers: Sequence[Header], path: str = "/api/session"
) -> tuple[int, Any]:
    """Return the status and the answer of a request by an open connection."""
    connection.putrequest("GET", path)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("enrich.runtime.renewed_certificate._LOOK_S", 0.0)
    proxies, page = Authority(tmp_path / "proxies"), Authority(tmp_path / "page")
    (tmp_path / "ca.crt").write_bytes(proxies.file.read_bytes())
    certificate = RenewedCertificate("the page", *page.sign("/CN=localhost", "serverAuth"), tmp_path / "ca.crt")
    asked: list[str] = []

    def review_user(user: str, namespace: str) -> int:
        asked.append(user)
        return ALLOWED if json.loads(user)["username"] == "ann" and not namespace else FORBIDDEN

    gate = TokenGate(lambda token, _: FORBIDDEN if token == "known" else UNAUTHENTICATED)  # noqa: S105 - no secret
    proxy = FrontProxy(certificate, ("proxy", "other proxy"), TokenGate(review_user))
    feed, stop = FlowFeed(lambda: cast("Any", None)), threading.Event()
    metrics, unused = WebMetrics(CollectorRegistry()), cast("Any", None)
    make_page = partial(Page, feed, unused, unused, unused, metrics, Answers(metrics, gate, "c1", proxy), "c1")
    with _listening(("127.0.0.1", 0)) as listener:
        serving = _serve(load(Settings, {}), certificate.lasting_context(), listener, make_page, stop)
        thread = threading.Thread(target=asyncio.run, args=(serving,))
        thread.start()
        try:
            yield Served(tmp_path, listener.getsockname()[1], proxies, page, asked)
        finally:
            stop.set()
            thread.join()


def test_a_proxy_says_who_asks(served: Served) -> None:
    groups: tuple[Header, ...] = (("X-Remote-Group", "dev"), ("x-remote-group", "cn=ops,dc=example"))
    extra: tuple[Header, ...] = (("X-Remote-Extra-Example.org%2fscope", "read"), ("X-Remote-Extra-Seat", "1"),
                                 ("X-Remote-Extra-seat", "2"))  # fmt: skip
    assert served.ask(served.proxy(), ANN, *groups, *extra)[0] == 200
    assert json.loads(served.asked[0]) == {
        "username": "ann", "groups": ["dev", "cn=ops,dc=example", "system:authenticated"],
        "extra": {"example.org/scope": ["read"], "seat": ["1", "2"]},
    }  # fmt: skip
    assert served.ask(served.proxy("/CN=other proxy"), ("X-REMOTE-USER", "bob"))[0] == 200
    # Nothing is shown that the user may not see.
    status, said = served.ask(served.proxy(), ("X-Remote-User", "bob"), path="/api/health")
    assert (status, "all namespaces" in said["error"]) == (403, True)


def test_headers_without_an_allowed_certificate_count_for_nothing(served: Served) -> None:
    subjects = ("/CN=Proxy", "/CN=proxy2", "/O=proxy", "/CN=proxy/CN=other", "/CN=other/CN=proxy", "/CN=*")
    for files in (None, *map(served.proxy, subjects)):
        status, said = served.ask(files, ANN)
        assert (status, "WEIR_WEB_PROXY_CA" in said["error"]) == (401, True), files
        # A token is somebody's, whatever else is sent.
        assert served.ask(files, ANN, ("Authorization", "Bearer known"))[0] == 200
        assert served.ask(files, ANN, ("Authorization", "Bearer made-up"))[0] == 401
    assert served.asked == []
    # A proxy that names nobody passes tokens on.
    assert served.ask(served.proxy(), ("Authorization", "Bearer known"))[0] == 200
    assert served.ask(served.proxy())[0] == 401


def test_a_certificate_of_others_ends_the_handshake(served: Served, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign")
    ended = [
        foreign.sign("/CN=proxy"),
        served.page.sign("/CN=proxy"),
        served.proxy(purpose="serverAuth"),
        served.proxy(valid=("20200101000000Z", "20200102000000Z")),
        served.proxy(valid=("20990101000000Z", "20990102000000Z")),
    ]
    for files in ended:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            served.ask(files, ANN)
    assert served.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        [ANN, ("X-Remote-User", "admin")],
        [ANN, ANN],
        [ANN, ("x-ReMoTe-uSeR", "admin")],
        [("X-Remote-User", "")],
        [ANN, ("X-Remote-User", "")],
        [("X-Remote-User", b"\xff")],
        [ANN, ("X-Remote-Group", b"\xff")],
        [ANN, ("X-Remote-Extra-", "x")],
        [ANN, ("X-Remote-Extra-%ff", "x")],
        [ANN, *[("X-Remote-Group", "g")] * 1001],
    ],
)  # fmt: skip
def test_headers_that_two_readers_could_understand_differently_are_refused(headers: list[Header]) -> None:
    raw = [(name.lower().encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    with pytest.raises(HeaderError):
        user_of(raw)


def test_headers_that_only_look_like_a_proxys_name_nobody(served: Served) -> None:
    for name in ("X_Remote_User", "X-Remote_User", "X-Remote-User-", "Remote-User", "X-Forwarded-User"):
        assert served.ask(served.proxy(), (name, "ann"))[0] == 401
    group = "system:masters"
    more: tuple[Header, ...] = (("X_Remote_User", "admin"), ("X_Remote_Group", group), ("X-Remote-Groups", group),
                                ("X-Remote-Group", f"a, {group}"))  # fmt: skip
    assert served.ask(served.proxy(), ("X-Remote-User", "bob, ann"), *more)[0] == 200
    (asked,) = {json.loads(one)["username"]: json.loads(one) for one in served.asked}.values()
    assert asked == {
        "username": "bob, ann", "groups": ["a, system:masters", "system:authenticated"], "extra": {},
    }  # fmt: skip
    status, said = served.ask(served.proxy(), ANN, ("X-Remote-User", "admin"))
    assert (status, "once" in said["error"]) == (401, True)


def test_nobody_is_signed_in_who_is_anonymous() -> None:
    for name, groups, expected in (
        ("system:anonymous", [], []),
        ("ann", ["system:unauthenticated"], ["system:unauthenticated"]),
        ("ann", ["system:authenticated"], ["system:authenticated"]),
        ("ann", [], ["system:authenticated"]),
    ):
        raw = [(b"x-remote-user", name.encode()), *((b"x-remote-group", one.encode()) for one in groups)]
        assert json.loads(user_of(raw))["groups"] == expected


def test_another_authority_ends_the_belief_in_the_earlier_one(served: Served, tmp_path: Path) -> None:
    files = served.proxy()
    kept = served.connect(files)
    assert ask(kept, [ANN])[0] == 200
    later = Authority(tmp_path / "later")
    (served.folder / "ca.crt").write_bytes(later.file.read_bytes())
    with contextlib.closing(kept):
        answer = ask(kept, [ANN])
        assert answer[0] == 401
        assert kept.sock is None, "it must connect again with its new certificate"
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        served.ask(files, ANN)
    assert served.ask(later.sign("/CN=proxy"), ANN)[0] == 200
    # What cannot be read changes nothing.
    (served.folder / "ca.crt").write_text("no certificate")
    assert served.ask(later.sign("/CN=proxy"), ANN)[0] == 200


def follow(connection: http.client.HTTPConnection, *headers: Header) -> http.client.HTTPResponse:
    """Open a live view."""
    connection.putrequest("GET", "/api/live")
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def test_an_open_view_ends_with_the_belief_in_its_proxy(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.web.flows._HEARTBEAT_S", 0.05)
    kept = served.connect(served.proxy())
    with contextlib.closing(kept), follow(kept, ANN) as view:
        assert view.status == 200
        assert view.readline().startswith(b"event: kafka")
        while b"still here" not in view.readline():
            pass
        (served.folder / "ca.crt").write_bytes(Authority(tmp_path / "later").file.read_bytes())
        rest = view.read()
        assert b"event: cut" in rest
        assert b"the proxy that has signed you in is not believed any more" in rest


def test_one_person_does_not_take_all_live_views(served: Served) -> None:
    token = ("Authorization", "Bearer known")
    with contextlib.ExitStack() as stack:

        def open_view(files: tuple[Path, Path] | None, header: Header) -> http.client.HTTPResponse:
            connection = stack.enter_context(contextlib.closing(served.connect(files)))
            return stack.enter_context(follow(connection, header))

        for _ in range(VIEWS_EACH):
            view = open_view(None, token)
            assert view.status == 200
            view.readline()
        refused = open_view(None, token)
        assert (refused.status, b"of yours are open" in refused.read()) == (503, True)
        assert open_view(served.proxy(), ANN).status == 200


def test_a_certificate_that_ends_is_not_believed_on_its_old_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = served.connect(served.proxy())
    with contextlib.closing(kept):
        assert ask(kept, [ANN])[0] == 200
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3 * 86_400)
        assert ask(kept, [ANN])[0] == 401


def test_the_page_speaks_a_version_of_tls_in_which_nothing_is_resumed(served: Served) -> None:
    context = ssl.create_default_context(cafile=str(served.page.file))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = http.client.HTTPSConnection("localhost", served.port, context=context, timeout=240)
    with pytest.raises(ssl.SSLError):
        connection.connect()


@pytest.mark.parametrize(
    "given",
    [
        {"WEIR_WEB_PROXY_NAMES": "proxy"},
        {"WEIR_WEB_PROXY_CA": "/ca"},
        {"WEIR_WEB_PROXY_CA": "/ca", "WEIR_WEB_PROXY_NAMES": ","},
        {"WEIR_WEB_PROXY_CA": "/ca", "WEIR_WEB_PROXY_NAMES": "proxy"},
        {"WEIR_WEB_PROXY_CA": "/ca", "WEIR_WEB_PROXY_NAMES": "proxy", "WEIR_WEB_AUTH": "kubernetes"},
        {"WEIR_WEB_PROXY_CA": "/ca", "WEIR_WEB_PROXY_NAMES": "*", "WEIR_WEB_CERTIFICATE": "/c", "WEIR_WEB_KEY": "/k"},
    ],
)
def test_settings_that_would_believe_everybody_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="WEIR_WEB_PROXY"):
        check_web(load(Settings, given))


def test_the_api_server_is_asked_about_the_user_with_groups_and_extra_values() -> None:
    class Api:
        def create(self, path: str, body: dict[str, Any]) -> bytes:
            assert path.endswith("subjectaccessreviews")
            self.spec = body["spec"]
            return b'{"status": {"allowed": true}}'

    api = Api()
    review = users_reviewer(lambda: cast("Client", api))
    assert review(user_text("ann", ["dev"], {"seat": ["1"]}), "shop") == ALLOWED
    assert api.spec == {
        "user": "ann", "uid": "", "groups": ["dev"], "extra": {"seat": ["1"]},
        "resourceAttributes": {"namespace": "shop", "verb": "get", "group": "kubeweir.io", "resource": "flows"},
    }  # fmt: skip


def test_any_name_is_believed_only_if_it_is_said() -> None:
    certificate = {"subject": ((("commonName", "whoever"),),)}
    assert front_proxy._is_named(certificate, {"*"})
    assert not front_proxy._is_named(certificate, {"proxy"})
    assert not front_proxy._is_named({"subject": ()}, {"proxy", ""})
