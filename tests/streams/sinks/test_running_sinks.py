"""The running sinks: what a changed file starts, keeps and stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry

from enrich.runtime.process import Exit, StopServiceError
from streams.alerts.model import AlertOutput, Alerts, WebhookOutput
from streams.alerts.outputs import sink_definitions
from streams.kafka.records import Record
from streams.metrics.roles import SinkMetrics
from streams.settings import Settings
from streams.sinks.running_sinks import MadeSink, OnAssigned, RunningSinks, SinkDefinition
from tests.waiting import until

Event = tuple[str, str]
T = TypeVar("T")


class Journal:
    """Everything that happened, in order; a reader never has a record."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.readers: list[QuietReader] = []

    def open_reader(
        self, group: str, topic: str, on_assigned: OnAssigned | None, on_new: Callable[[], None] | None
    ) -> QuietReader:
        self.events.append(("joined", group))
        self.readers.append(QuietReader(self, group))
        return self.readers[-1]

    def definition(self, name: str, content: object = 1, fails: Exception | None = None) -> SinkDefinition:
        def make() -> MadeSink:
            self.events.append(("made", name))
            if fails:
                raise fails
            return MadeSink(NamedSink(self, name))

        return SinkDefinition(name, "flows", f"group.{name}", content, make)

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events


class QuietReader:
    def __init__(self, journal: Journal, group: str) -> None:
        self.problem: str | None = None
        self.is_writing = False
        self._journal, self._group = journal, group
        self.raises: Exception | None = None
        self.hangs: threading.Event | None = None
        self.hanging = False

    def take(self, _most: int, _wait_s: float) -> list[Record]:
        threading.Event().wait(0.001)
        if self.raises:
            raise self.raises
        if self.hangs:
            self.hanging = True
            self.hangs.wait()
        return []

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        return stop.wait(seconds)

    def during(self, work: Callable[[], T]) -> T:
        return work()

    def fail(self) -> bool:
        return False

    def succeed(self) -> None: ...

    def leave(self, why: str) -> None: ...

    def commit(self, _records: Sequence[Record]) -> None: ...

    def lag(self) -> int | None:
        return None

    def close(self) -> None:
        self._journal.events.append(("left", self._group))


class NamedSink:
    def __init__(self, journal: Journal, name: str) -> None:
        self._journal, self._name = journal, name

    def write(self, values: Sequence[bytes]) -> None: ...

    def close(self) -> None:
        self._journal.events.append(("closed", self._name))


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def running(journal: Journal) -> Iterator[RunningSinks]:
    made = RunningSinks(journal.open_reader, lambda *_: True, SinkMetrics(CollectorRegistry()))
    yield made
    made.stop()


def test_a_sink_whose_content_is_the_same_keeps_running(journal: Journal, running: RunningSinks) -> None:
    running.apply([journal.definition("a"), journal.definition("b")])
    assert journal.take_events() == [("made", "a"), ("made", "b"), ("joined", "group.a"), ("joined", "group.b")]
    running.apply([journal.definition("a"), journal.definition("c")])
    assert journal.take_events() == [("made", "c"), ("left", "group.b"), ("closed", "b"), ("joined", "group.c")]


def test_a_changed_sink_is_made_before_its_predecessor_stops_and_joins_the_group_after(
    journal: Journal, running: RunningSinks
) -> None:
    running.apply([journal.definition("a", 1)])
    journal.take_events()
    running.apply([journal.definition("a", 2)])
    assert journal.take_events() == [("made", "a"), ("left", "group.a"), ("closed", "a"), ("joined", "group.a")]


def test_if_one_sink_cannot_be_made_all_old_sinks_stay_and_the_new_ones_are_closed(
    journal: Journal, running: RunningSinks
) -> None:
    running.apply([journal.definition("a", 1)])
    journal.take_events()
    impossible = StopServiceError("no", Exit.USAGE)
    with pytest.raises(StopServiceError):
        running.apply([journal.definition("new"), journal.definition("a", 2, fails=impossible)])
    assert journal.take_events() == [("made", "new"), ("made", "a"), ("closed", "new")]
    running.apply([journal.definition("a", 1)])
    assert not journal.take_events(), "the first one still runs"


def test_a_headers_variable_is_missing_the_old_output_stays(
    journal: Journal, running: RunningSinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alerts(**headers: str) -> Alerts:
        return Alerts(
            version=1, outputs=[AlertOutput("hook", webhook=WebhookOutput("http://127.0.0.1:9/x", headers=headers))]
        )

    running.apply(sink_definitions(alerts(), Settings()))
    assert journal.take_events() == [("joined", "kubeweir.alerts.to.hook")]
    changed = alerts(Authorization="HOOK_TOKEN")
    monkeypatch.delenv("HOOK_TOKEN", raising=False)
    with pytest.raises(StopServiceError, match="output hook: headers: HOOK_TOKEN is not in the environment"):
        running.apply(sink_definitions(changed, Settings()))
    assert not journal.take_events(), "it has not left its group"
    monkeypatch.setenv("HOOK_TOKEN", "Bearer x")
    running.apply(sink_definitions(changed, Settings()))
    assert journal.take_events() == [("left", "kubeweir.alerts.to.hook"), ("joined", "kubeweir.alerts.to.hook")]


@pytest.mark.parametrize(
    ("error", "code"), [(StopServiceError("full", Exit.UNABLE), Exit.UNABLE), (KeyError("x"), Exit.UNEXPECTED)]
)
def test_a_sink_that_ended_for_good_is_reported(
    journal: Journal, running: RunningSinks, error: Exception, code: Exit
) -> None:
    running.apply([journal.definition("a"), journal.definition("b")])
    journal.readers[0].problem = "Kafka is away"
    assert running.problem() == "a: Kafka is away"
    running.check()
    journal.readers[1].raises = error
    with pytest.raises(StopServiceError) as ended:
        wait_for(running.check)
    assert ended.value.code == code


def wait_for(check: Callable[[], None]) -> None:
    for _ in range(5000):
        check()
        threading.Event().wait(0.001)


def test_a_sink_that_never_returns_from_a_write_ends_the_role_instead_of_keeping_the_others_waiting(
    journal: Journal, running: RunningSinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.sinks.running_sinks._STOP_S", 0.1)
    running.apply([journal.definition("a"), journal.definition("b")])
    may_return = threading.Event()
    journal.readers[0].hangs = may_return
    until(lambda: journal.readers[0].hanging)
    journal.take_events()
    running.apply([journal.definition("b"), journal.definition("c")])
    with pytest.raises(StopServiceError, match="the sinks a do not end") as caught:
        running.check()
    assert caught.value.code == Exit.UNEXPECTED
    assert journal.take_events() == [("made", "c"), ("closed", "c")]
    monkeypatch.undo()
    # The others give their partitions back, which the restarted role would wait for else.
    running.stop()
    assert ("left", "group.b") in journal.events
    may_return.set()
    until(lambda: ("left", "group.a") in journal.events)
