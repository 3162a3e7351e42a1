"""What `weir status` prints when others have chosen hostile texts, and what it says that it could not find out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
from click.testing import CliRunner, Result

from enrich.wire.tally import NodeState
from streams.cli import status_command, status_topic
from streams.cli.custody_text import Report
from streams.cli.main import command
from streams.kafka.group_positions import GroupPosition
from streams.kafka.records import Record
from tests.streams.cli.test_custody import NOW, START, look, record
from tests.streams.observing.test_observe import Values

HOSTILE = "yes\u00a0\x1b[2J'\"\\\u202e"


def status(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["status", *arguments])


def test_a_text_that_a_terminal_would_obey_is_escaped_and_the_json_is_json_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = look(record(state=NodeState(suspicious={"Namespace a": HOSTILE}, unenforced={"a/b": HOSTILE})))
    monkeypatch.setattr(status_command, "_report", lambda *_: Report(START, NOW, nodes, []))
    for output in ("text", "json"):
        found = status("-o", output)
        assert found.exit_code == 0
        assert all(line.isprintable() for line in found.stdout.splitlines())
    [node] = json.loads(found.stdout)["nodes"]
    assert (node["state"]["suspicious"], node["state"]["unenforced"]) == ({"Namespace a": HOSTILE}, {"a/b": HOSTILE})


@pytest.mark.parametrize("topic", ["kubeweir.verdicts.raw", "kubeweir.flows", None])
def test_groups_that_kafka_does_not_show_are_not_known(monkeypatch: pytest.MonkeyPatch, topic: str | None) -> None:
    """As it does to a user without DESCRIBE on them, or on the raw topic."""

    def read(*_: object) -> Iterator[Record]:
        return iter(())

    positions = [GroupPosition("kubeweir.c1.enrich", topic, 5, 0)] if topic else []
    monkeypatch.setattr(status_command, "read_since", read)
    monkeypatch.setattr(status_topic, "read_since", read)
    monkeypatch.setattr(status_command, "group_names", lambda *_: [])
    monkeypatch.setattr(status_command, "group_positions", lambda *_: positions)
    unknown = json.loads(status("-o", "json").stdout)["unknown"]
    assert [one.partition(":")[0] for one in unknown] == (
        [] if topic == "kubeweir.verdicts.raw" else ["how far workers, sinks and routes have come"]
    )


def test_the_status_topic_says_which_routes_drop_records_and_which_versions_the_workers_have() -> None:
    read = status_topic.StatusTopic(START, lambda key: key[0] in ("", "c1"))

    def add(at: float, **fields: object) -> None:
        value = msgspec.json.encode(fields)
        read.add(Record(0, 0, b"", value, int(at * 1000)))

    tally = msgspec.to_builtins(record())
    for at, worker, version in ((START - 60, "w1", "0.1.0"), (NOW, "w2", "0.2.0"), (NOW, "w1", "0.2.0")):
        add(at, **tally | {"worker": worker, "version": version})
    add(NOW, **tally | {"cluster": "c2", "worker": "w3"})
    add(NOW, type="route_failed", reason="kubeweir.team-a", error="first")
    add(NOW, type="route_failed", reason="kubeweir.team-a", error="last", cluster="c1")
    add(NOW, type="route_failed", reason="kubeweir.team-b", error="of another cluster", cluster="c2")
    add(START - 1, type="route_failed", reason="kubeweir.team-c", error="before the window")
    add(NOW, type="heartbeat")
    assert read.failed_routes == {"kubeweir.team-a": (NOW, "last")}
    assert {one.worker: (one.version, one.at) for one in read.workers.values()} == {
        "w1": ("0.2.0", NOW), "w2": ("0.2.0", NOW),
    }  # fmt: skip


def test_lost_reports_of_connections_are_added_up_by_node_and_reason() -> None:
    read = status_topic.StatusTopic(START, lambda key: key[0] in ("", "c1"))
    for at, cluster, node, reason, reports in (
        (NOW, "c1", "n1", "ring_full", 3), (NOW, "c1", "n1", "ring_full", 4), (NOW, "c1", "n2", "gap", 1),
        (NOW, "c2", "n1", "gap", 9), (START - 1, "c1", "n1", "gap", 9), (NOW, "c1", "n1", "No Word", 9),
    ):  # fmt: skip
        fields = {"type": "ends_lost", "cluster": cluster, "node": node, "reason": reason, "reports": reports}
        read.add(Record(0, 0, b"", msgspec.json.encode(fields), int(at * 1000)))
    assert dict(read.lost_ends) == {("c1", "n1", "ring_full"): 7, ("c1", "n2", "gap"): 1}


def test_a_window_may_begin_with_the_first_day_of_the_calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Topic(Values):
        def at_time(self, timestamp_ms: int) -> dict[int, int]:
            asked.append(timestamp_ms)
            return {0: 0}

        def close(self) -> None:
            pass

    monkeypatch.setattr(status_topic, "TopicReader", lambda *_: Topic())
    monkeypatch.setattr(status_command, "group_names", lambda *_: [])
    monkeypatch.setattr(status_command, "group_positions", lambda *_: [])
    found = status("--since", "0001-01-01")
    assert found.exit_code == 1
    assert found.stdout.endswith("No node has given a tally in this time.\n")
    assert set(asked) == {0}
