"""Which answers of a server prove that a policy was deleted, and which leave it in force."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enrich.model import ClusterNetworkPolicy, Name, Object
from enrich.runtime.state_file import read_state
from enrich.sources.client import AnswerError
from enrich.sources.definition import UNREADABLE, Definition
from enrich.sources.last_state import LastState
from enrich.sources.policy_store import PolicyStore
from enrich.sources.resources import RESOURCES, Reader
from tests.waiting import until

RESOURCE = next(one for one in RESOURCES if one.type is ClusterNetworkPolicy)
INTACT = Definition(exists=True, uid="d1", served=("v1alpha2",))
ABSENT = Definition()


def element(name: str, priority: int = 1) -> msgspec.Raw:
    """A policy as the server sends it."""
    spec = {"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}}
    return msgspec.Raw(json.dumps({"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": spec}).encode())


_DISK_S = 60.0


def listing(*names: str) -> dict[Name, tuple[Object, bytes]]:
    read = [(Reader(RESOURCE).read(raw)[1], bytes(raw)) for raw in map(element, names)]
    return {made.key: (made, raw) for made, raw in read if made is not None}


class Server:
    """What the server says of the definition."""

    def __init__(self) -> None:
        self.answer: Definition | AnswerError = INTACT

    def __call__(self) -> Definition:
        if isinstance(self.answer, AnswerError):
            raise self.answer
        return self.answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr("enrich.sources.last_state._CONFIRM_S", 0.0)
    # The disk of a machine that is busy takes seconds, which only some tests are about.
    monkeypatch.setattr("enrich.sources.policy_store._READ_S", _DISK_S)
    return Server()


def seen(server: Server, *names: str, store: PolicyStore | None = None, cluster: str = "c1") -> LastState:
    """The last state after these were listed under an intact definition, and are stored."""
    state = LastState(RESOURCE, server, store, lambda: cluster)
    state.begin()
    state.begin_list()
    state.replace(listing(*names), ())
    if store is not None:
        store.close(_DISK_S)
    return state


def names(objects: list[Object]) -> set[str]:
    return {made.key.name for made in objects}


CHANGED = [
    ABSENT,
    INTACT._replace(uid="d2"),
    INTACT._replace(is_ending=True),
    INTACT._replace(served=("v1beta1",)),
]


@pytest.mark.parametrize("definition", CHANGED)
@pytest.mark.parametrize("remaining", [(), ("b",)])
def test_a_policy_that_went_with_its_definition_stays(
    server: Server, definition: Definition, remaining: tuple[str, ...]
) -> None:
    state = seen(server, "a", "b")
    server.answer = definition
    assert not state.take(Name("", "a"))
    assert "clusternetworkpolicies" in state.kept[Name("", "a")]
    state.begin()
    assert names(state.replace(listing(*remaining), ())) == {"a", "b"}
    assert {name.name for name in state.kept} == {"a", "b"} - set(remaining)


def test_a_policy_that_was_deleted_goes(server: Server) -> None:
    state = seen(server, "a", "b", "c")
    assert state.take(Name("", "a"))
    assert names(state.replace(listing("c"), ())) == {"c"}
    assert names(state.replace({}, ())) == set()
    assert not state.kept


def test_without_an_answer_about_the_definition_nothing_goes(server: Server) -> None:
    state = seen(server, "a")
    server.answer = AnswerError("busy", 503)
    with pytest.raises(AnswerError):
        state.take(Name("", "a"))
    with pytest.raises(AnswerError):
        state.replace({}, ())
    assert names(state.unserved("away")) == {"a"}


def test_where_definitions_cannot_be_read_an_empty_list_proves_nothing(server: Server) -> None:
    server.answer = UNREADABLE
    state = seen(server, "a", "b")
    assert names(state.replace({}, ())) == {"a", "b"}
    assert names(state.replace(listing("b"), ())) == {"b"}
    assert state.take(Name("", "b")), "somebody has said so"


def test_another_servers_empty_list_proves_nothing_and_its_deletions_do(server: Server) -> None:
    server.answer = ABSENT
    state = seen(server, "a", "b")
    assert names(state.replace({}, ())) == {"a", "b"}
    assert state.take(Name("", "a"))


def test_a_list_that_is_empty_all_of_a_sudden_is_asked_for_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrich.sources.last_state._CONFIRM_S", 1000.0)
    state = seen(server, "a")
    with pytest.raises(AnswerError, match="stay in force"):
        state.replace({}, ())
    assert names(state.replace(listing("a"), ())) == {"a"}
    with pytest.raises(AnswerError, match="stay in force"):
        state.replace({}, ())


def test_a_policy_that_cannot_be_parsed_any_more_keeps_its_last_state(server: Server) -> None:
    state = seen(server, "a", "b")
    assert names(state.replace(listing("b"), {"a"})) == {"a", "b"}


def test_a_kept_policy_ends_with_one_of_its_name(server: Server) -> None:
    state = seen(server, "a")
    server.answer = INTACT._replace(uid="d2")
    state.begin()
    state.replace({}, ())
    assert state.kept
    made, raw = listing("a")[Name("", "a")]
    state.put(made, raw)
    assert not state.kept
    assert state.take(Name("", "a"))


def test_the_last_state_outlives_the_process(server: Server, tmp_path: Path) -> None:
    seen(server, "a", "b", store=PolicyStore(tmp_path / "state"))
    server.answer = ABSENT
    state = LastState(RESOURCE, server, PolicyStore(tmp_path / "state"))
    assert names(state.unserved("not served")) == {"a", "b"}
    # While nobody looked, the definition was made again.
    server.answer = INTACT._replace(uid="d2")
    store = PolicyStore(tmp_path / "state")
    state = LastState(RESOURCE, server, store)
    state.begin()
    assert names(state.replace(listing("b"), ())) == {"a", "b"}
    assert state.take(Name("", "b"))
    store.close(_DISK_S)
    assert names(LastState(RESOURCE, server, PolicyStore(tmp_path / "state")).unserved("")) == {"a"}


def test_policies_of_another_cluster_go_once_it_is_known_to_be_another(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    seen(server, "a", "b", store=PolicyStore(folder))
    server.answer = ABSENT
    answers: list[str | AnswerError] = [AnswerError("busy", 503), "", "c2"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, AnswerError):
            raise answer
        return answer

    store = PolicyStore(folder)
    state = LastState(RESOURCE, server, store, ask)
    with pytest.raises(AnswerError):
        state.begin_list()
    assert names(state.unserved("not served")) == {"a", "b"}, "it may be the same cluster"
    state.begin_list()
    assert names(state.unserved("not served")) == {"a", "b"}
    state.begin_list()
    assert names(state.unserved("not served")) == set()
    assert not state.kept
    store.close(_DISK_S)
    assert not list(folder.iterdir())


def test_policies_of_the_same_cluster_stay(server: Server, tmp_path: Path) -> None:
    seen(server, "a", store=PolicyStore(tmp_path))
    server.answer = ABSENT
    state = LastState(RESOURCE, server, PolicyStore(tmp_path), lambda: "c1")
    state.begin_list()
    assert names(state.unserved("not served")) == {"a"}


def test_an_unreadable_definition_does_not_replace_one_that_is_known(server: Server, tmp_path: Path) -> None:
    seen(server, "a", store=PolicyStore(tmp_path))
    # Seen again while neither the definition nor the cluster could be read.
    server.answer = UNREADABLE
    seen(server, "a", store=PolicyStore(tmp_path), cluster="")
    server.answer = INTACT._replace(uid="d2")
    state = LastState(RESOURCE, server, PolicyStore(tmp_path))
    state.begin()
    assert names(state.replace({}, ())) == {"a"}, "the definition was made again meanwhile"
    state = LastState(RESOURCE, server, PolicyStore(tmp_path), lambda: "c2")
    state.begin_list()
    assert names(state.unserved("")) == set()


def test_a_stored_file_that_is_broken_costs_itself_only(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    seen(server, "a", "b", store=PolicyStore(folder))
    (folder / "a").write_bytes(b'{"definition": "d1", "obj')
    (folder / "c").write_bytes(json.dumps({"definition": "d1", "object": {"metadata": {"name": "c"}}}).encode())
    (folder / "d").write_bytes(b'{"definition": "d1", "object": {}}')
    (folder / "e").write_bytes(b'{"definition": "d1", "object": []}')
    (folder / ".unfinished").write_bytes(b"{")
    store = PolicyStore(folder)
    state = LastState(RESOURCE, server, store)
    assert names(state.unserved("")) >= {"b"}
    assert (folder / "b").stat().st_mode & 0o777 == 0o600
    assert f"stored policies in {folder} cannot be read: a, c, d, e" in (store.problem or "")
    state.begin()
    state.replace(listing("a", "b"), ())
    assert "cannot be read: c, d, e" in (store.problem or ""), "the server has sent the state of a"


def test_a_cluster_that_the_server_does_not_show_is_said_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = PolicyStore(tmp_path)
    first = LastState(RESOURCE, server, store, lambda: "c1")
    first.begin_list()
    first.replace(listing("a"), ())
    store.close(_DISK_S)
    state = LastState(RESOURCE, server, PolicyStore(tmp_path), lambda: "")
    state.begin_list()
    state.begin_list()
    assert capsys.readouterr().out.count("may be another cluster's, and stay in force") == 1
    assert names(state.unserved("")) == {"a"}


def test_a_folder_that_cannot_be_written_stops_nothing_and_is_written_once_it_can(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrich.sources.policy_store._RETRY_S", 0.01)
    (tmp_path / "file").write_text("")
    store = PolicyStore(tmp_path / "file" / "state")
    state = LastState(RESOURCE, server, store)
    state.replace(listing("a", "b"), ())
    assert names(state.unserved("")) == {"a", "b"}
    assert "a restart may lose them" in (store.problem or "")
    (tmp_path / "file").unlink()
    until(lambda: store.problem is None)
    store.close(_DISK_S)
    assert names(LastState(RESOURCE, server, PolicyStore(tmp_path / "file" / "state")).unserved("")) == {"a", "b"}


def test_a_disk_that_does_not_answer_stops_nothing_and_gets_the_newest_state_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrich.sources.policy_store._PATIENCE_S", 0.0)
    answers, fsync = threading.Event(), os.fsync

    def hang(descriptor: int) -> None:
        assert answers.wait(60)
        fsync(descriptor)

    monkeypatch.setattr("enrich.sources.policy_store.os.fsync", hang)
    store = PolicyStore(tmp_path)
    state = LastState(RESOURCE, server, store)
    assert names(state.replace(listing("a", "b", "c"), ())) == {"a", "b", "c"}
    for priority in range(2, 50):
        raw = element("a", priority)
        made = Reader(RESOURCE).read(raw)[1]
        assert made is not None
        state.put(made, bytes(raw))
    assert state.take(Name("", "b"))
    assert len(store._unwritten) == 3, "one state of each, however often it changes"
    until(lambda: "has stored nothing for" in (store.problem or ""))
    answers.set()
    until(lambda: store.problem is None)
    store.close(_DISK_S)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}
    assert json.loads((tmp_path / "a").read_bytes())["object"]["spec"]["priority"] == 49


def test_stored_policies_of_a_disk_that_does_not_answer_at_the_start_are_in_force_when_it_does(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PolicyStore(tmp_path)
    LastState(RESOURCE, server, first).replace(listing("a", "b", "c"), ())
    first.close()
    monkeypatch.setattr("enrich.sources.policy_store._READ_S", 0.01)
    answers, reads = threading.Event(), read_state

    def hang(path: Path, max_bytes: int) -> bytes:
        assert answers.wait(60)
        return reads(path, max_bytes)

    monkeypatch.setattr("enrich.sources.policy_store.read_state", hang)
    store = PolicyStore(tmp_path)
    state = LastState(RESOURCE, server, store)
    assert "did not answer" in (store.problem or "")
    state.begin()
    assert not state.unserved("it is not served")
    # What the server says meanwhile is newer.
    raw = element("a", 7)
    made = Reader(RESOURCE).read(raw)[1]
    assert made is not None
    state.put(made, bytes(raw))
    answers.set()
    until(lambda: store.is_late)
    state.begin()
    assert names(state.unserved("it is not served")) == {"a", "b", "c"}
    assert made in state.unserved("it is not served")
    until(lambda: store.problem is None)
    store.close(_DISK_S)


def test_an_answer_that_is_no_definition_is_not_read() -> None:
    from enrich.sources.definition import read_definition
    from tests.enrich.sources.answers import connection

    def answer(body: Any) -> Definition:
        return read_definition(connection(json.dumps(body).encode()), RESOURCE)

    versions = [{"name": "v1", "served": True}, {"name": "v2", "served": False}]
    meta = {"uid": "u", "resourceVersion": "9"}
    assert answer({"metadata": meta, "spec": {"versions": versions}}).served == ("v1",)
    odd: list[Any] = [{}, [], {"metadata": meta}, {"metadata": meta, "spec": {"versions": ["v1"]}}, {"metadata": None}]
    for body in odd:
        assert not answer(body).readable
