"""What a role says of itself while it starts, and in which order its parts end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from enrich.diagnosis.rights import Needs
from enrich.diagnosis.watch import Diagnosis
from enrich.runtime.health import HealthServer
from enrich.runtime.process import Exit, StopServiceError
from enrich.wire.topics import Topic
from streams.kafka.lag import LagMonitor
from streams.roles.alerts import run_alerts
from streams.roles.enrich import run_enrich
from streams.roles.journal import run_journal
from streams.roles.own_cluster import OwnCluster
from streams.roles.own_topics import OwnTopics
from streams.roles.running_role import RunningRole, run_role
from streams.roles.sinks import run_routes, run_sink
from streams.settings import Settings

Run = Callable[[Settings, threading.Event], int]


def settings_of(folder: Path, **given: Any) -> Settings:
    return Settings(kafka="127.0.0.1:1", prefix="p", source=f"manifests:{folder}", metrics="127.0.0.1:0", **given)


def run_stdout(settings: Settings, stop: threading.Event) -> int:
    return run_sink("stdout", settings, stop)


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Needs]]:
    """What the diagnosis of the role asks for its needs."""
    found: list[Callable[[], Needs]] = []
    made = Diagnosis.__init__

    def keep(self: Diagnosis, connection: Any, needs: Callable[[], Needs]) -> None:
        found.append(needs)
        made(self, connection, needs)

    monkeypatch.setattr(Diagnosis, "__init__", keep)
    return found


@pytest.mark.parametrize("run", [run_enrich, run_alerts, run_journal, run_routes, run_stdout])
def test_no_group_is_named_before_the_id_of_the_cluster_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: list[Callable[[], Needs]], run: Run
) -> None:
    asked: list[Needs] = []

    def find(_own_cluster: OwnCluster, _stop: threading.Event) -> Settings:
        asked.append(needs[0]())
        raise StopServiceError("there is no cluster", Exit.USAGE)

    monkeypatch.setattr(OwnCluster, "find", find)
    routes, manifests = tmp_path / "routes.yaml", tmp_path / "manifests"
    routes.write_text("version: 1\nroutes: [{name: all, outputs: [{stdout: {}}]}]\n")
    manifests.mkdir()
    with pytest.raises(StopServiceError, match="there is no cluster"):
        run(settings_of(manifests, routes=str(routes)), threading.Event())
    assert [(one.groups, one.transactions) for one in asked] == [(frozenset(), frozenset())]


def test_the_journal_names_its_group_and_transactions_with_the_id_of_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: list[Callable[[], Needs]]
) -> None:
    asked: list[Needs] = []

    def prepare(_own_topics: OwnTopics, topics: Iterable[Topic]) -> bool:
        asked.append(needs[0]())
        assert {topic.name for topic in topics} == {"p.journal", "p.dead"}
        return False

    monkeypatch.setattr(OwnTopics, "prepare", prepare)
    assert run_journal(settings_of(tmp_path, cluster="c1"), threading.Event()) == Exit.OK
    assert [(one.groups, one.transactions) for one in asked] == [
        (frozenset({"p.c1.journal", "p.journal.reader"}), frozenset({"p.c1.journal."}))
    ]


def test_the_first_check_that_fails_says_why_a_role_is_not_ready(tmp_path: Path) -> None:
    role = RunningRole(settings_of(tmp_path), threading.Event(), ("fetch",))
    assert role.problem() == "Kafka has not been reached yet"
    role.problems[:] = [lambda: None, lambda: "the journal is behind", lambda: "the monitor stalls"]
    assert role.problem() == "the journal is behind"
    role.problems[:] = [lambda: None]
    assert role.problem() is None


def test_what_the_work_has_started_ends_before_the_monitor_also_if_the_work_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def work(role: RunningRole) -> None:
        role.stack.callback(ended.append, "source")
        role.stack.callback(ended.append, "thread")
        raise StopServiceError("the thread has failed", Exit.UNEXPECTED)

    def note(kind: type, method: str, name: str) -> None:
        original = getattr(kind, method)

        def noted(self: object) -> None:
            ended.append(name)
            original(self)

        monkeypatch.setattr(kind, method, noted)

    note(LagMonitor, "stop", "monitor")
    note(Diagnosis, "stop", "diagnosis")
    note(HealthServer, "close", "health")
    with pytest.raises(StopServiceError, match="the thread has failed"):
        run_role("journal", settings_of(tmp_path), threading.Event(), ("fetch",), work)
    assert ended == ["thread", "source", "monitor", "diagnosis", "health"]
