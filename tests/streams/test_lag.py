"""What the measured lag of groups means for their role (``streams.kafka.lag``), without a broker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import MagicMock

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from enrich.diagnosis.rights import Cause
from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.stall import Stall
from streams.kafka import lag, measurement, open_transactions
from streams.kafka.committed import CommittedOffsets
from streams.kafka.consumer_groups import GroupCoordinators
from streams.kafka.followed import Followed, WatchedThread
from streams.kafka.lag import LagMonitor
from streams.kafka.measurement import Call, Measurement
from streams.kafka.open_transactions import Suspect
from streams.kafka.records import TopicAndPartition
from streams.kafka.topic_ids import TopicIds

PLACES = [("t", 0), ("t", 1)]


class Kafka:
    """What the broker answers; each partition ends at 100."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.committed: dict[TopicAndPartition, int] = dict.fromkeys(PLACES, 10)
        self.blocked: set[str] = set()
        self.remade: list[str] = []
        self.rewound: list[str] = []
        monkeypatch.setattr(lag, "admin_client", MagicMock())
        monkeypatch.setattr(GroupCoordinators, "assigned_partitions", lambda *_: frozenset())
        self.stable = 100
        monkeypatch.setattr(
            measurement, "first_or_last_offsets", lambda _admin, places, _spec: dict.fromkeys(places, 0)
        )
        for module in (measurement, open_transactions):
            monkeypatch.setattr(module, "stable_and_last_offsets", self._ends)
        monkeypatch.setattr(open_transactions, "known", lambda _connection, _reader, transaction, _admin: transaction)
        monkeypatch.setattr(CommittedOffsets, "of", self._of)
        monkeypatch.setattr(TopicIds, "look", lambda ids, *_: self._look(ids))
        monkeypatch.setattr(lag, "rewind", lambda _connection, group, *_: self.rewound.append(group))

    def _ends(
        self, _admin: Any, places: Sequence[TopicAndPartition]
    ) -> tuple[dict[TopicAndPartition, int], dict[TopicAndPartition, int]]:
        return dict.fromkeys(places, self.stable), dict.fromkeys(places, 100)

    def _of(self, group: str, _places: Any, *, stable: bool = True) -> Mapping[TopicAndPartition, int]:
        if stable and group in self.blocked:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return dict(self.committed)

    def _look(self, ids: TopicIds) -> list[TopicAndPartition]:
        ids.remade = list(self.remade)
        return PLACES


class Metrics:
    """Counts the commits that were noted."""

    def __init__(self) -> None:
        self.commits = 0

    def note(self, call: Call) -> None:
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
    def fails(_measurement: Measurement, _admin: Any, followed: Followed) -> None:
        if followed.group == "a":
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE, "no coordinator"))
        measured.append(followed.group)

    measured: list[str] = []
    monkeypatch.setattr(Measurement, "measure", fails)
    monkeypatch.setattr(GroupCoordinators, "refusal", lambda *_: "")
    followed = [Followed("a", ["t"], list), Followed("b", ["t"], list)]
    for stall_s, shown in ((60.0, None), (0.0, "a cannot be measured: no coordinator")):
        monitor = LagMonitor({}, stall_s, Metrics())
        for one in followed:
            monitor.follow(one)
        monitor._measure(followed)
        assert [monitor._stalled(one) for one in followed] == [shown, None]
    assert measured == ["b", "b"]


def test_a_role_without_groups_and_threads_is_not_ready_either_without_an_answer_of_kafka(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = MagicMock()
    monkeypatch.setattr(lag, "admin_client", lambda _: admin)
    monitor = LagMonitor({"bootstrap.servers": "kafka:9092"}, 0.0, Metrics())
    monitor._look()
    admin.list_topics.side_effect = KafkaException(KafkaError(KafkaError._TRANSPORT))
    answered_at = monitor._answered_at
    monitor._look()
    assert monitor._answered_at == answered_at
    assert (monitor.problem() or "").startswith("Kafka has not answered for 0 s at kafka:9092")


def test_only_an_answer_of_kafka_counts_as_one_and_not_the_end_of_a_look(kafka: Kafka) -> None:
    """Kafka stops answering while the monitor looks for transactions, which raises nothing, and takes its time."""
    monitor = LagMonitor({"bootstrap.servers": "kafka:9092"}, 60.0, Metrics())
    heard: list[float] = []

    def fails() -> bool:
        heard.append(monitor._answered_at)
        raise TimeoutError

    monitor.suspect(Suspect(lambda: True, "answered", ["t"]))
    monitor.suspect(Suspect(fails, "not_answered", ["t"]))
    before = time.monotonic()
    monitor._look()
    assert heard == [monitor._answered_at]
    assert monitor._answered_at > before


def test_a_look_that_takes_long_accuses_nobody(kafka: Kafka) -> None:
    monitor = LagMonitor({"bootstrap.servers": "kafka:9092"}, 60.0, Metrics())
    now = [0.0]
    monitor._open._clock = lambda: now[0]

    def fails() -> bool:
        now[0] += 100.0
        return True

    monitor.suspect(Suspect(fails, "group_of_a", ["t"]))
    monitor.suspect(Suspect(fails, "group_of_b"))
    kafka.stable = 50
    monitor._measure([])
    assert monitor.blocked() is None
    now[0] += 100.0  # an outage, in which nobody could end it
    assert monitor.blocked() is None
    monitor._measure([])
    assert "offset 50 of t [0]" in (monitor.blocked() or "")


def test_a_partition_that_is_read_up_to_a_transaction_ends_no_role_and_one_that_is_not_does(kafka: Kafka) -> None:
    monitor = LagMonitor({"bootstrap.servers": "kafka:9092"}, 0.0, Metrics())
    followed = Followed("g", ["t"], lambda: PLACES, has_record=lambda *_: True)
    monitor.follow(followed)
    kafka.stable, kafka.committed = 50, dict.fromkeys(PLACES, 50)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            monitor._measure([followed])
    monitor.check()
    assert [one.records for one in followed.partitions.values()] == [50, 50]
    assert "offset 50 of t [0]" in (monitor.blocked() or "")
    assert "offset 50 of t [1]" in (monitor.blocked() or "")
    assert [one["event"] for one in logs] == ["readers wait for a transaction that has not ended"] * 2, "once each"
    kafka.committed["t", 1] = 40
    for _ in range(2):
        monitor._measure([followed])
    with pytest.raises(StopServiceError, match="g has made no progress"):
        monitor.check()


def test_transactions_that_end_are_no_transaction_that_lasts(kafka: Kafka) -> None:
    monitor = LagMonitor({"bootstrap.servers": "kafka:9092"}, 60.0, Metrics())
    now = [0.0]
    monitor._open._clock = lambda: now[0]
    followed = Followed("g", ["t"], lambda: PLACES)
    monitor.follow(followed)
    for kafka.stable in range(50, 60):
        now[0] += 50.0
        monitor._measure([followed])
        assert monitor.blocked() is None
    now[0] += 60.0
    monitor._measure([followed])
    assert "offset 59" in (monitor.blocked() or "")


@pytest.mark.parametrize("is_optional", [False, True])
def test_a_thread_that_waits_for_a_transaction_ends_no_role(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, is_optional: bool
) -> None:
    thread, fails = Thread(monkeypatch), [True]
    thread.monitor._connection = thread.monitor._open._connection = {"bootstrap.servers": "kafka:9092"}
    thread.monitor.suspect(Suspect(lambda: fails[0], "group_of_a", [], ["t"], is_optional=is_optional))
    thread.monitor._watched.pop()
    kafka.stable, kafka.blocked = 100, {"group_of_a"}
    for _ in range(3):
        thread.look(0)
    thread.monitor.check()
    assert thread.monitor._watched[0].stall.seconds == 0.0, "it has its whole time when the transaction ends"
    assert "of the group group_of_a" in (thread.monitor.blocked(optional=is_optional) or "")
    assert thread.monitor.blocked(optional=not is_optional) is None
    kafka.blocked.clear()
    for _ in range(2):
        thread.look(0)
    with pytest.raises(StopServiceError, match="the loop a has not worked"):
        thread.monitor.check()


def test_a_look_that_fails_ends_no_transaction(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = LagMonitor({"bootstrap.servers": "kafka:9092"}, 10.0, Metrics())
    now, fails = [0.0], [False]
    monitor._open._clock = lambda: now[0]

    def look(seconds: float) -> str:
        now[0] += seconds
        monitor._measure([])
        return monitor.blocked() or ""

    def asked() -> bool:
        if fails[0]:
            raise TimeoutError
        return True

    monitor.suspect(Suspect(asked, "g", ["t"], ["t"]))
    kafka.stable, kafka.blocked = 50, {"g"}
    look(0)
    assert look(10).count("has not ended") == 3, "both partitions, and the group's offsets"
    fails[0] = True
    assert look(10).count("has not ended") == 3
    assert look(30).count("has not ended") == 3
    assert look(20) == "", "what nobody could see for so long is not claimed"
    fails[0] = False
    look(0)
    assert look(10).count("has not ended") == 3
    kafka.stable, kafka.blocked = 100, set()
    assert look(1) == ""


@pytest.mark.parametrize("only_writes", [False, True])
def test_a_thread_waits_for_no_transaction_in_a_topic_that_it_only_writes(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, only_writes: bool
) -> None:
    thread = Thread(monkeypatch)
    thread.monitor._connection = thread.monitor._open._connection = {"bootstrap.servers": "kafka:9092"}
    thread.monitor.suspect(Suspect(lambda: True, "group_of_b", ["t"]))
    thread.monitor._watched[:] = [WatchedThread("the loop a", lambda: 0, ["t"], ["t"] if only_writes else ())]
    kafka.stable = 50
    for _ in range(3):
        thread.look(0)
    assert "offset 50 of t [0]" in (thread.monitor.blocked() or "")
    assert thread.ended == only_writes


class Thread:
    """A thread that takes its turns, or hangs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, causes: Sequence[Cause] = (), stall_s: float = 0.0) -> None:
        monkeypatch.setattr(lag, "_THREAD_STALL_S", 0.0)
        self.turns, self.ended = 0, 0
        self.monitor = LagMonitor({}, stall_s, Metrics(), lambda: causes)
        self.monitor._end = self.end
        self.monitor.watch(WatchedThread("the loop a", lambda: self.turns, ["group_of_a", "written_by_a"]))
        self.monitor.watch(WatchedThread("the loop b", lambda: self.turns, ["group_of_b"]))

    def end(self) -> None:
        self.ended += 1

    def look(self, turns: int) -> None:
        """Let the thread take some turns, and the monitor look at it."""
        self.turns += turns
        self.monitor._look_at_threads()
        self.monitor._measure([])


def test_a_thread_that_hangs_ends_the_role_although_it_has_no_group_any_more(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop leaves its group before it begins again, and librdkafka may not return from that."""
    thread = Thread(monkeypatch, stall_s=3600.0)
    thread.look(1)
    thread.look(0)
    assert (thread.monitor.problem(), thread.ended) == (None, 0)
    thread.monitor._watched[0].stall.limit_s = 0.0
    thread.look(0)
    text = "the loop a has not worked for 0 s, although Kafka answers"
    assert thread.monitor.problem() == text
    with pytest.raises(StopServiceError, match=f"^{text}; restarting, with new clients$"):
        thread.monitor.check()
    assert thread.ended == 1


def test_a_thread_is_given_its_whole_time_again_after_a_long_outage(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = Thread(monkeypatch, stall_s=10.0)
    now = 0.0
    for watched in thread.monitor._watched:
        watched.stall = Stall(10.0, lambda: now)
    thread.look(1)
    for _ in range(20):  # four times as long as a thread may take
        now += 10
        thread.monitor._look_at_threads()
        thread.monitor._postpone_all([])
    now += 10
    thread.look(0)
    now += 49
    thread.look(0)
    thread.monitor.check()
    now += 1
    thread.look(0)
    with pytest.raises(StopServiceError, match=r"^the loop a has not worked for 50 s"):
        thread.monitor.check()


def test_a_monitor_that_cannot_close_its_consumers_ends_the_role(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        raise StopServiceError("9 calls to Kafka hang", Exit.UNEXPECTED)

    monkeypatch.setattr(CommittedOffsets, "keep", hang)
    thread = Thread(monkeypatch)
    thread.monitor._every_s = 0.0
    thread.monitor._run()
    with pytest.raises(StopServiceError, match=r"^9 calls to Kafka hang$"):
        thread.monitor.check()
    assert thread.ended == 1


def test_a_thread_that_waits_for_kafka_does_not_end_the_role(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_away(**_: object) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    thread = Thread(monkeypatch)
    admin = MagicMock()
    admin.list_topics = is_away
    monkeypatch.setattr(lag, "admin_client", lambda _: admin)
    with pytest.raises(KafkaException):
        thread.look(0)
    thread.monitor.check()


@pytest.mark.parametrize(
    ("about", "ends"), [("group_of_a", "b"), ("written_by_a", "b"), ("group_of_b", "a"), ("", None), ("other", None)]
)
def test_a_cause_keeps_only_the_threads_that_it_is_about_from_their_recovery(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, about: str, ends: str | None
) -> None:
    thread = Thread(monkeypatch, [Cause("no right", about)])
    thread.look(0)
    if ends is None:
        thread.monitor.check()
    else:
        with pytest.raises(StopServiceError, match=f"^the loop {ends} has not worked"):
            thread.monitor.check()
