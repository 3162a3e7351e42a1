"""What is answered from topics in memory: windows, followers, losses, and records that no worker wrote."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streams.hubble import answering
from streams.hubble.answering import FlowsCall, Topics
from streams.hubble.losses import past_losses
from streams.hubble.messages import message
from streams.hubble.request import read_request
from streams.observing.observe import Window
from tests.streams.hubble.filled_topic import FilledTopic
from tests.streams.observing.test_observe import make_value

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def at(second: int) -> datetime:
    return NOW - timedelta(minutes=1) + timedelta(seconds=second)


def flow(number: int, **changes: Any) -> tuple[int, bytes]:
    changes = {"id": f"r-{number}", "timestamp": f"{at(number):%Y-%m-%dT%H:%M:%S}.000000000Z", **changes}
    return int(at(number).timestamp() * 1000), make_value(**changes)


def lost(at_ms: int, verdicts: int) -> tuple[int, bytes]:
    return at_ms, b'{"type":"lost","cluster":"c1","node":"n1","verdicts":%d}' % verdicts


class Cluster:
    """The topics, and the answers to requests that are made of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topics = {name: FilledTopic() for name in ("flows", "denied", "status")}
        monkeypatch.setattr(answering, "TopicReader", lambda _, topic: self.topics[topic])

    def write(self, *records: tuple[int, bytes]) -> None:
        for record in records:
            self.topics["flows"].append(*record)

    def ask(self, **fields: Any) -> Iterator[Any]:
        request = read_request(message("GetFlowsRequest")(**fields), ("app",), NOW)
        topics = Topics({"bootstrap.servers": "-"}, "flows", "denied", "status", "")
        return FlowsCall(topics, request, "1.0", lambda: True).messages()

    def ids(self, **fields: Any) -> list[str]:
        return [one.flow.uuid for one in self.ask(**fields)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def timestamp(when: datetime) -> Any:
    return message("Timestamp")(seconds=int(when.timestamp()))


def test_windows_and_numbers(cluster: Cluster) -> None:
    cluster.write(*map(flow, range(10)))
    assert cluster.ids(number=2) == ["r-8", "r-9"]
    assert cluster.ids(number=2, first=True) == ["r-0", "r-1"]
    assert cluster.ids(since=timestamp(at(4)), until=timestamp(at(7))) == ["r-4", "r-5", "r-6"]
    assert cluster.ids(since=timestamp(at(4)), number=2) == ["r-4", "r-5"], "as in Hubble, the first ones since then"
    assert cluster.ids(until=timestamp(at(7)), number=2) == ["r-5", "r-6"], "the last ones until then"
    assert cluster.ids(until=timestamp(at(7)), number=2, first=True) == ["r-0", "r-1"]


def test_records_that_no_worker_has_written_neither_take_places_nor_end_an_answer(cluster: Cluster) -> None:
    hostile = [
        flow(99, timestamp="~"), flow(98, timestamp="2026-11-29T12:00:00.-1Z"),
        flow(97, timestamp="2026-13-29T12:00:00Z"), flow(96, timestamp="2026-11-29T12:00:00.1_0Z"),
        flow(95, id="i" * 129), flow(94, node_name="n" * (64 << 10)),
    ]  # fmt: skip
    cluster.write(*map(flow, range(3)), *hostile, (int(NOW.timestamp() * 1000), b"{"))
    assert cluster.ids(number=2) == ["r-1", "r-2"]
    assert cluster.ids() == ["r-0", "r-1", "r-2"]


def test_a_flow_that_comes_while_the_last_ones_are_read_is_sent_once(cluster: Cluster) -> None:
    topic = cluster.topics["flows"]
    cluster.write(*map(flow, range(3)))
    bounds, calls = topic.bounds, 0

    def later() -> dict[int, tuple[int, int]]:
        nonlocal calls
        calls += 1
        if calls == 2:  # the answer knows where it will go on, and has not read the last ones
            topic.append(*flow(3))
        return bounds()

    topic.bounds = later  # type: ignore[method-assign]  # for this reader alone
    answers = cluster.ask(number=2, follow=True)
    found = [next(answers).flow.uuid for _ in range(2)]
    topic.append(*flow(4))
    found.append(next(answers).flow.uuid)
    assert found == ["r-2", "r-3", "r-4"]


def test_a_follower_waits_for_its_time(cluster: Cluster) -> None:
    answers = cluster.ask(since=timestamp(at(5)), follow=True)
    cluster.write(flow(5))
    assert next(answers).flow.uuid == "r-5"
    cluster.write(flow(4), flow(6))
    status = cluster.topics["status"]
    status.append(*lost(int(at(4).timestamp() * 1000), 100))
    assert next(answers).flow.uuid == "r-6"
    status.append(*lost(int(at(7).timestamp() * 1000), 7))
    assert next(answers).lost_events.num_events_lost == 7


def test_past_losses_are_those_of_the_window_and_no_sum_is_too_large() -> None:
    topic = FilledTopic(
        lost(at_ms, verdicts) for at_ms, verdicts in ((5_000, 3), (3_999, 100), (4_000, 4), (6_000, 100))
    )
    window = Window(datetime.fromtimestamp(4, UTC), datetime.fromtimestamp(6, UTC))
    (found,) = past_losses(topic, {0: 4}, window, "")
    assert found.lost_events.num_events_lost == 7
    assert (found.lost_events.first.seconds, found.lost_events.last.seconds) == (4, 5)
    (found,) = past_losses(FilledTopic([lost(4_000, (1 << 63) - 1)] * 3), {0: 3}, window, "")
    assert found.lost_events.num_events_lost == (1 << 64) - 1
