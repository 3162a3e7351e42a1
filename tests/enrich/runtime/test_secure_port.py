"""The metrics port with TLS and tokens: who reads what, and no client keeps others waiting."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from enrich.runtime.health import HealthServer
from enrich.runtime.secure_port import Guard, MetricsSettings
from enrich.runtime.settings import SettingsError, load
from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN, TokenGate
from enrich.sources.client import Client
from enrich.sources.source import SourceError
from enrich.sources.token_review import reviewer as reviewer_of
from tests.authority import make_authority
from tests.waiting import until

ANSWERS = {"good": ALLOWED, "other": FORBIDDEN, "away": UNKNOWN}


class Reviewer:
    """Answers by the token's text, and can be made to wait."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, token: str, path: str) -> int:
        self.asked.append((token, path))
        assert self.may_answer.wait(60)
        return ANSWERS.get(token, UNAUTHENTICATED)


class Port:
    """A guarded port, and how to read it."""

    def __init__(self, folder: Path, gate: TokenGate | None) -> None:
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.problems: dict[str, str | None] = {"kafka": "is away at secret-host"}
        make_authority(self.certificate)
        self.server = HealthServer("127.0.0.1:0", CollectorRegistry(), {"kafka": lambda: self.problems["kafka"]},
                                   lambda: ["kept: pod shop/secret"],
                                   guard=Guard(self.certificate, self.key, gate))  # fmt: skip

    def get(self, path: str, token: str = "") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"https://127.0.0.1:{self.server.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120, context=unverified()) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def served_certificate(self) -> str:
        plain = socket.create_connection(("127.0.0.1", self.server.port), timeout=120)
        with plain, unverified().wrap_socket(plain) as made:
            return ssl.DER_cert_to_PEM_cert(made.getpeercert(binary_form=True) or b"").strip()


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture
def reviewer() -> Reviewer:
    return Reviewer()


@pytest.fixture
def port(tmp_path: Path, reviewer: Reviewer) -> Iterator[Port]:
    made = Port(tmp_path, TokenGate(reviewer))
    yield made
    reviewer.may_answer.set()
    made.server.close()


def test_only_who_is_surely_allowed_reads_metrics(port: Port) -> None:
    assert port.get("/metrics", "good")[0] == 200
    assert "process_cpu_seconds_total" in port.get("/metrics", "good")[1]
    assert [port.get("/metrics", token)[0] for token in ("", "made-up", "other", "away")] == [401, 401, 403, 503]


def test_the_kubelet_needs_no_token_and_learns_no_names(port: Port, reviewer: Reviewer) -> None:
    assert port.get("/healthz") == (200, "ok\n")
    status, text = port.get("/readyz")
    assert (status, "secret" in text, "kafka" in text) == (503, False, True)
    assert port.get("/readyz", "good") == (503, "kafka: is away at secret-host\nkept: pod shop/secret\n")
    port.problems["kafka"] = None
    assert port.get("/readyz") == (200, "ok\n")
    assert port.get("/readyz", "made-up") == (200, "ok\n")


def test_a_check_that_fails_unexpectedly_does_not_end_the_port(port: Port) -> None:
    del port.problems["kafka"]
    assert port.get("/readyz")[0] == 500
    assert port.get("/readyz", "good")[0] == 500
    assert port.get("/healthz")[0] == 200


def test_without_a_gate_everybody_reads_by_tls(tmp_path: Path) -> None:
    port = Port(tmp_path, None)
    try:
        assert port.get("/metrics")[0] == 200
        assert "secret-host" in port.get("/readyz")[1]
    finally:
        port.server.close()


def test_plain_text_gets_no_answer(port: Port) -> None:
    with socket.create_connection(("127.0.0.1", port.server.port), timeout=120) as made:
        made.sendall(b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer good\r\n\r\n")
        received = b""
        with contextlib.suppress(OSError):
            while block := made.recv(4096):
                received += block
    assert b"HTTP/" not in received


def test_a_review_that_takes_long_keeps_no_other_request_waiting(port: Port, reviewer: Reviewer) -> None:
    assert port.get("/metrics", "good")[0] == 200
    reviewer.may_answer.clear()
    waiting = [threading.Thread(target=port.get, args=("/metrics", f"made-up-{number}")) for number in range(8)]
    for thread in waiting:
        thread.start()
    until(lambda: len(reviewer.asked) == 3)
    assert port.get("/healthz")[0] == 200
    assert port.get("/metrics", "good")[0] == 200
    reviewer.may_answer.set()
    for thread in waiting:
        thread.join()


def test_idle_handshakes_keep_no_client_from_the_port(port: Port) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", port.server.port), timeout=120))
        assert port.get("/metrics", "good")[0] == 200


def test_a_renewed_certificate_is_taken_into_use_and_half_of_one_is_not(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrich.runtime.renewed_certificate._LOOK_S", 0.0)
    first = port.served_certificate()
    assert first == port.certificate.read_text().strip()
    key = port.key.read_text()
    port.key.write_text("")
    assert port.served_certificate() == first
    port.key.write_text(key)
    make_authority(port.certificate)
    assert port.served_certificate() == port.certificate.read_text().strip() != first
    port.certificate.unlink()
    assert port.get("/metrics", "good")[0] == 200


def test_a_port_without_a_certificate_is_closed_until_it_has_one(
    port: Port, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("enrich.runtime.renewed_certificate._LOOK_S", 0.0)
    server = HealthServer("127.0.0.1:0", CollectorRegistry(), {}, guard=Guard(tmp_path / "no.crt", tmp_path / "no.key"))
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as made:
            assert made.recv(1) == b""
        make_authority(tmp_path / "no.crt")
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as made:
            unverified().wrap_socket(made).close()
    finally:
        server.close()


def test_answers_are_kept_for_a_while_and_made_up_tokens_displace_none_that_is_allowed(reviewer: Reviewer) -> None:
    now = [0.0]
    gate = TokenGate(reviewer, lambda: now[0])

    def status(token: str) -> int:
        found: list[int | None] = [None]

        def known() -> bool:
            found[0] = gate.look(token, "/metrics")
            return found[0] is not None

        until(known)
        return found[0] or 0

    assert status("good") == ALLOWED
    for number in range(600):
        assert status(f"made-up-{number}") == UNAUTHENTICATED
    count = len(reviewer.asked)
    assert status("good") == ALLOWED
    assert len(reviewer.asked) == count
    assert sum(map(len, gate._known.values())) <= 257
    now[0] = 61.0
    ANSWERS["good"] = UNKNOWN
    try:
        assert status("good") == UNKNOWN
    finally:
        ANSWERS["good"] = ALLOWED


def test_a_token_that_cannot_be_reviewed_ends_nothing() -> None:
    asked: list[str] = []

    def review(token: str, _path: str) -> int:
        asked.append(token)
        raise KeyError(token)

    gate = TokenGate(review)
    for number in range(5):
        until(lambda token=f"made-up-{number}": gate.look(token, "/metrics") == UNKNOWN)  # type: ignore[misc]
    assert len(asked) >= 5


def test_too_many_questions_are_refused_at_once(reviewer: Reviewer) -> None:
    reviewer.may_answer.clear()
    gate = TokenGate(reviewer)
    found = [gate.look(f"made-up-{number}", "/metrics") for number in range(100)]
    assert UNKNOWN in found
    assert found.count(None) <= 18
    reviewer.may_answer.set()


def test_made_up_tokens_keep_no_token_out_that_was_allowed_before(reviewer: Reviewer) -> None:
    now = [0.0]
    gate = TokenGate(reviewer, lambda: now[0])
    until(lambda: gate.look("good", "/metrics") == ALLOWED)
    now[0] = 61.0
    reviewer.may_answer.clear()
    for number in range(100):
        gate.look(f"made-up-{number}", "/metrics")
    until(lambda: len(reviewer.asked) == 3)
    assert gate.look("good", "/metrics") is None, "it waits, and is not refused"
    reviewer.may_answer.set()
    until(lambda: gate.look("good", "/metrics") == ALLOWED)
    until(lambda: len(reviewer.asked) == 20)
    assert reviewer.asked[3][0] == "good", "made-up ones have come before it"


def test_an_api_server_that_does_not_answer_fills_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    def connect() -> Client:
        raise SourceError("it is away")

    review = reviewer_of(connect)
    assert {review(f"made-up-{number}", "/metrics") for number in range(100)} == {UNKNOWN}
    assert capsys.readouterr().out.count("it is away") == 1


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"WEIR_METRICS_CERTIFICATE": "/a"}, "must be set together"),
        ({"WEIR_METRICS_AUTH": "kubernetes"}, "tokens must not travel in plain text"),
        ({"WEIR_METRICS_AUTH": "basic"}, "WEIR_METRICS_AUTH"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(env: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load(MetricsSettings, env).check_metrics()
