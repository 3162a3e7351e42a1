"""What `weir doctor` makes of what it hears, and that it ends in time with everything dead."""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enrich.diagnosis import connect, rights
from enrich.diagnosis.connect import RefusedConnectionError
from enrich.diagnosis.protocol import NO_ERROR, Broker, Described
from enrich.wire.rights import PRINCIPALS
from enrich.wire.tally import NodeState
from enrich.wire.topics import topics as topics_of
from streams.cli.custody import NodeCustody
from streams.cli.doctor import api, reports, topics
from streams.cli.doctor.api import clock_of
from streams.cli.doctor.asking import Asking
from streams.cli.doctor.brokers import needs_of
from streams.cli.doctor.brokers import rights as rights_of
from streams.cli.doctor.finding import Finding, ok
from streams.cli.doctor.reports import of_node, own_clock
from streams.cli.main import command
from streams.settings import Settings
from tests.enrich.diagnosis.test_rights import BROKER, Answers
from tests.streams.cli.test_custody import look, record


def doctor(*arguments: str, env: dict[str, str]) -> Result:
    return CliRunner().invoke(command, ["doctor", *arguments], env={"WEIR_CLUSTER": "", **env})


def kubeconfig(folder: Path, address: str) -> Path:
    """Return a kubeconfig of an API server without TLS."""
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://{address}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def dead() -> Iterator[str]:
    """An address that takes connections, and never answers on them."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_with_everything_dead_it_says_so_and_exits_with_1(
    dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_TIMEOUT_S", 0.2)
    monkeypatch.setattr(api, "_ANSWER_S", 0.2)
    result = doctor(
        "--timeout", "120", "-o", "json", env={"WEIR_KAFKA": dead, "KUBECONFIG": str(kubeconfig(tmp_path, dead))}
    )
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    by_about = {one["about"]: (one["level"], one["text"]) for one in found["findings"]}
    assert by_about["Kafka"][0] == "warning"
    assert "no broker can be used" in by_about["Kafka"][1]
    level, text = by_about[f"Kafka {dead}"]
    assert (level, text.partition(" within")[0]) == ("problem", f"{dead} is connected but does not answer")
    level, text = by_about["Kubernetes"]
    assert (level, text.partition(":")[0]) == ("problem", "the API server does not answer")
    assert found["problems"] == 2


@pytest.fixture
def firewalled() -> Iterator[str]:
    """An address that takes no connection and refuses none, as behind a firewall: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_an_api_server_behind_a_firewall_is_told_before_the_time_is_over(
    firewalled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_ANSWER_S", 0.2)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, firewalled)))
    # With the time of a service, four attempts to connect take 40 s.
    asking = Asking(30.0)
    [found] = asking.findings(asking.start("Kubernetes", lambda: api.api("kubernetes")))
    assert (found.level, found.text.partition(":")[0]) == ("problem", "the API server does not answer")


def test_a_wrong_setting_is_a_line_and_the_rest_is_asked_all_the_same() -> None:
    result = doctor(env={"WEIR_KAFKA_PROTOCOL": "smoke", "WEIR_SOURCE": "manifests:x"})
    assert result.exit_code == 1
    assert "problem  settings: WEIR_KAFKA_PROTOCOL='smoke': must be" in result.stdout
    assert "ok       Kubernetes: not asked, because WEIR_SOURCE=manifests:x" in result.stdout
    assert result.stdout.endswith("\n1 problem, no warnings.\n")


def test_what_was_found_before_a_question_hangs_or_fails_is_kept() -> None:
    hold, hangs = threading.Event(), threading.Event()

    def hang() -> Iterator[Finding]:
        yield ok("a", "first")
        hangs.set()
        hold.wait()

    def fail() -> Iterator[Finding]:
        yield ok("b", "first")
        raise ZeroDivisionError

    asking = Asking(0.2)
    asked = [asking.start("a", hang), asking.start("b", fail)]
    # A busy machine may start neither within the time.
    assert hangs.wait(60)
    wait([asked[1].work], 60)
    found = [one for each in asked for one in asking.findings(each)]
    hold.set()
    assert [(one.level, one.about) for one in found] == [("ok", "a"), ("problem", "a"), ("ok", "b"), ("problem", "b")]
    assert "ZeroDivisionError" in found[-1].text


def node(**changes: object) -> NodeCustody:
    """A node that has just reported."""
    [found] = look(record(state=NodeState(version="9.9.9")))
    return replace(found, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "level", "says"),
    [
        (node(ahead_s=0.0), "ok", "probe 9.9.9, last heard of at"),
        (node(ahead_s=7.04), "warning", "its clock is at least 7.0 s ahead of the workers'"),
        (node(ahead_s=0.0, is_silent=True), "problem", "not heard of since"),
        (node(ahead_s=0.0, state=NodeState(version="9.9.8")), "warning", "upgrade what is older"),
        (node(ahead_s=0.0, state=NodeState()), "warning", "probe of an earlier version"),
        (node(ahead_s=0.0, state=NodeState(version="9.9.9", unenforced_pods=3)), "warning", "not enforced for 3 pods"),
    ],
)  # fmt: skip
def test_a_line_of_a_node(one: NodeCustody, level: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "version_text", lambda: "9.9.9")
    found = of_node("node n1", one, is_own_clock_right=True)
    assert found.level == level
    assert says in found.text


def test_a_clock_is_called_wrong_only_if_that_is_sure() -> None:
    assert own_clock(1.0).level == own_clock(-3600.0).level == "ok"
    assert "at least 2.5 s behind" in own_clock(2.5).text
    # If this machine's clock is wrong, nothing is sure about a node's.
    assert "ahead" not in of_node("node n1", node(ahead_s=99.0), is_own_clock_right=False).text


@pytest.mark.parametrize(
    ("date_s", "before_s", "after_s", "says"),
    [
        (1000, 1000.9, 1001.0, "agrees"), (1000, 1002.4, 1003.0, "agrees"), (1000, 1060.0, 1060.1, "59 s ahead of"),
        (1060, 1000.0, 1000.5, "60 s behind"),
        # A slow answer proves nothing.
        (1000, 990.0, 1100.0, "agrees"),
    ],
)  # fmt: skip
def test_the_api_servers_clock(date_s: int, before_s: float, after_s: float, says: str) -> None:
    [found] = clock_of(email.utils.formatdate(date_s, usegmt=True), before_s, after_s)
    assert says in found.text
    assert found.level == ("ok" if says == "agrees" else "problem")
    assert list(clock_of("soon", before_s, after_s)) == []


def test_topics_that_are_missing_or_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = topics_of("kubeweir", 8)
    there: dict[str, tuple[int, Mapping[str, str | None] | None]] = {
        one.name: (one.partitions, one.config) for one in expected if one.name != expected.pairs.name
    }
    there[expected.flows.name] = (16, expected.flows.config)
    there[expected.raw.name] = (8, {**expected.raw.config, "message.timestamp.type": "CreateTime"})
    there[expected.journal.name] = (1, None)  # no DESCRIBE_CONFIGS
    del there[expected.denied.name]
    monkeypatch.setattr(topics, "found_topics", lambda *_: there)

    def found(*, given: bool) -> dict[str, list[str]]:
        by: dict[str, list[str]] = {}
        for one in topics.topics({}, Settings(), partitions_given=given):
            by.setdefault(f"{one.level} {one.about}", []).append(one.text)
        return by

    seen = found(given=False)
    assert list(seen) == [
        "warning kubeweir.verdicts.raw", "warning kubeweir.flows", "problem kubeweir.flows.denied", "ok kubeweir.pairs",
        "ok kubeweir.*",
    ]  # fmt: skip
    assert (
        "it has 16 partitions, not 8: set WEIR_PARTITIONS, of probes and workers, to 16"
        in seen["warning kubeweir.flows"]
    )
    assert "message.timestamp.type is CreateTime" in seen["warning kubeweir.verdicts.raw"][0]
    assert seen["ok kubeweir.*"][1] == "the configuration of 1 topics was not looked at: no DESCRIBE_CONFIGS"
    # WEIR_PARTITIONS is set to the default of 32.
    assert any("it has 8 partitions, not 32" in text for text in found(given=True)["warning kubeweir.verdicts.raw"])


def test_the_needs_of_each_principal_are_its_rights() -> None:
    for principal in PRINCIPALS:
        needs = needs_of(principal, "p", "c1")
        assert needs.reads or needs.writes
        assert all(name.startswith("p.") for name in (*needs.reads, *needs.writes, *needs.groups, *needs.transactions))
    assert needs_of("probe", "p", "c1").writes == {"p.verdicts.raw", "p.endpoints"}
    assert "p.c1.doctor" in needs_of("workers", "p", "c1").groups
    assert not needs_of("workers", "p", "").transactions


class _Whole(Answers):
    """A broker at which the user has every right. Another one is dead."""

    def metadata(self, topics: list[str]) -> tuple[list[Broker], dict[str, Described]]:
        return [BROKER, Broker(2, "127.0.0.2", 9092)], {name: Described(NO_ERROR, 0xFFFF) for name in topics}

    def describe_group(self, _group: str) -> Described:
        return Described(NO_ERROR, 0xFFFF)


def test_rights_are_known_though_a_broker_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def connected(_: object, address: tuple[str, int]) -> _Whole:
        if address != (BROKER.host, BROKER.port):
            raise RefusedConnectionError("dead")
        return _Whole(NO_ERROR, NO_ERROR)

    monkeypatch.setattr(rights, "connect", connected)
    [found] = rights_of({"bootstrap.servers": "127.0.0.1:9092"}, "workers", "kubeweir", "c1")
    assert found.level == "ok"
    [found] = rights_of({"bootstrap.servers": "127.0.0.2:9092"}, "workers", "kubeweir", "c1")
    assert (found.level, found.text) == ("warning", "not known, because no broker can be used: dead")


class _Refusing(http.server.BaseHTTPRequestHandler):
    """An API server that does not know the token."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Give the address of a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_api_server_that_rejects_the_credentials_has_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(_Refusing) as address:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, address)))
        [found] = api.api("kubernetes")
    text = "/version: the API server rejects the credentials (401): renew the token or the certificate"
    assert (found.level, found.text) == ("problem", text)


class _Api(http.server.BaseHTTPRequestHandler):
    """An API server whose account may not list pods and ReplicaSets, and that has no policies of tiers."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        code = 403 if path.endswith(("pods", "replicasets")) else 404 if "policy.networking" in path else 200
        body = json.dumps({"gitVersion": "v1.99.0"}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_what_an_account_may_not_list_is_a_problem_only_where_an_answer_depends_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(_Api) as address:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, address)))
        found = list(api.api("kubernetes"))
    *others, (_, _, listed) = found
    assert listed.startswith("this account may list namespaces, nodes, services, endpointslices, jobs, networkpolicies")
    assert [(one.level, one.text.partition(":")[0]) for one in others] == [
        ("ok", "the API server answers, version v1.99.0"),
        ("ok", "this machine's clock agrees with the API server's"),
        ("problem", "this account may not list pods"),
        ("warning", "this account may not list replicasets"),
        ("ok", "the cluster has no clusternetworkpolicies"),
        ("ok", "the cluster has no adminnetworkpolicies"),
        ("ok", "the cluster has no baselineadminnetworkpolicies"),
    ]  # fmt: skip
