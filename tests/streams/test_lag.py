"""What the measured lag of groups means for their role (``streams.kafka.lag``), without a broker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import MagicMock

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from enrich.diagnosis.rights import Cause
from enrich.runtime.process import StopServiceError
from streams.kafka import lag
from streams.kafka.committed import CommittedOffsets
from streams.kafka.consumer_groups import GroupCoordinators
from streams.kafka.followed import Followed
from streams.kafka.lag import LagMonitor
from streams.kafka.records import TopicAndPartition
from streams.kafka.topic_ids import TopicIds

PLACES = [("t", 0), ("t", 1)]


class Kafka:
    """What the broker answers; each partition ends at 100."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.committed: dict[TopicAndPartition, int] = dict.fromkeys(PLACES, 10)
        self.remade: list[str] = []
        self.rewound: list[str] = []
        monkeypatch.setattr(lag, "admin_client", MagicMock())
        monkeypatch.setattr(GroupCoordinators, "assigned_partitions", lambda *_: frozenset())
        monkeypatch.setattr(lag, "first_or_last_offsets", lambda _admin, places, _spec: dict.fromkeys(places, 100))
        monkeypatch.setattr(CommittedOffsets, "of", self._of)
        monkeypatch.setattr(TopicIds, "look", lambda ids, *_: self._look(ids))
        monkeypatch.setattr(lag, "rewind", lambda _connection, group, *_: self.rewound.append(group))

    def _of(self, *_: Any) -> Mapping[TopicAndPartition, int]:
        return dict(self.committed)

    def _look(self, ids: TopicIds) -> list[TopicAndPartition]:
        ids.remade = list(self.remade)
        return PLACES


class Metrics:
    """Counts the commits that were noted."""

    def __init__(self) -> None:
        self.commits = 0

    def note(self, call: lag.Call) -> None:
        self.commits += call == "commit"

    def set_lag(self, group: str, records: int, seconds: float) -> None: ...

    def forget(self, group: str) -> None: ...


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    return Kafka(monkeypatch)


def test_only_what_this_worker_commits_renews_the_age_of_its_last_commit(kafka: Kafka) -> None:
    metrics = Metrics()
    monitor = LagMonitor({}, 60.0, metrics)
    followed = Followed("g", ["t"], lambda: [("t", 0)])
    monitor.follow(followed)
    monitor._measure([followed])
    assert metrics.commits == 0, "at the first look, it is not known when that was committed"
    kafka.committed["t", 1] = 20
    monitor._measure([followed])
    assert metrics.commits == 0, "another worker has done this"
    kafka.committed["t", 0] = 20
    monitor._measure([followed])
    assert metrics.commits == 1


def test_all_groups_of_a_topic_that_was_made_again_are_rewound_although_the_first_ends_the_role(kafka: Kafka) -> None:
    failures: list[str] = []
    monitor = LagMonitor({}, 60.0, Metrics())

    def end() -> None:
        try:
            monitor.stop()
            monitor.check()
        except StopServiceError as error:
            failures.append(str(error))

    monitor._end = end
    followed = [Followed("a", ["t"], list), Followed("b", ["t"], list)]
    for one in followed:
        monitor.follow(one)
    monitor._measure(followed)
    kafka.remade = ["t"]
    with structlog.testing.capture_logs() as logs:
        monitor._measure(followed)
        monitor._measure(followed)
    text = "t: deleted and made again; restarting, to read it from its beginning"
    assert kafka.rewound == ["a", "b"]
    assert failures == [text], "a second end would kill the role while it rewinds"
    assert [one["event"] for one in logs] == [text]


@pytest.mark.parametrize(
    ("about", "ends"),
    [("a", "b"), ("read_by_a", "b"), ("written_by_a", "b"), ("b", "a"), ("", None), ("written_by_nobody", None)],
)
def test_a_cause_keeps_only_the_groups_that_it_is_about_from_their_recovery(
    kafka: Kafka, about: str, ends: str | None
) -> None:
    monitor = LagMonitor({}, 0.0, Metrics(), lambda: [Cause("no right", about)])
    followed = [Followed("a", ["t", "read_by_a"], list, needs=["written_by_a"]), Followed("b", ["t"], list)]
    for one in followed:
        monitor.follow(one)
    monitor._measure(followed)
    if ends is None:
        monitor.check()
    else:
        with pytest.raises(StopServiceError, match=f"^{ends} has made no progress"):
            monitor.check()


def test_a_group_that_cannot_be_measured_hides_no_other_one(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_monitor: LagMonitor, _admin: Any, followed: Followed) -> None:
        if followed.group == "a":
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE, "no coordinator"))
        measured.append(followed.group)

    measured: list[str] = []
    monkeypatch.setattr(LagMonitor, "_measure_group", fails)
    monkeypatch.setattr(GroupCoordinators, "refusal", lambda *_: "")
    followed = [Followed("a", ["t"], list), Followed("b", ["t"], list)]
    for stall_s, shown in ((60.0, None), (0.0, "a cannot be measured: no coordinator")):
        monitor = LagMonitor({}, stall_s, Metrics())
        for one in followed:
            monitor.follow(one)
        monitor._measure(followed)
        assert [monitor._stalled(one) for one in followed] == [shown, None]
    assert measured == ["b", "b"]
