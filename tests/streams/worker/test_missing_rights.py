"""What an enricher does when Kafka takes nothing more: it waits for a missing right, and ends for anything else."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from enrich.diagnosis.rights import Cause
from enrich.runtime.process import Exit
from enrich.runtime.settings import load
from streams.settings import Settings
from streams.worker import missing_rights
from streams.worker.missing_rights import MissingRights
from tests.waiting import until

FLOWS = "kubeweir.flows"


class Worker:
    """A worker whose Kafka says which rights are missing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.missing: list[Cause] = []
        self.looks = 0
        self.events: list[object] = []
        self.stop = threading.Event()
        self.loop = SimpleNamespace(call_soon_threadsafe=lambda step: step())
        producer = SimpleNamespace(drop_queued=lambda: self.events.append("dropped"))
        self.rights = MissingRights(
            load(Settings, {}), producer, self.loop, self.stop, lambda: self.events.append("begun again")  # type: ignore[arg-type]  # a part of each
        )  # fmt: skip
        monkeypatch.setattr(missing_rights, "causes", self._causes)
        monkeypatch.setattr(missing_rights, "_LOOK_S", 0.001)
        monkeypatch.setattr(os, "_exit", self.events.append)

    def _causes(self, *_: object) -> list[Cause]:
        self.looks += 1
        return self.missing


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    made = Worker(monkeypatch)
    yield made
    made.stop.set()


def test_a_missing_right_is_waited_for(worker: Worker) -> None:
    worker.missing = [Cause("no right WRITE", FLOWS)]
    worker.rights.on_refused("no right WRITE", FLOWS)
    worker.rights.on_refused("purged")
    until(lambda: worker.looks > 3)
    assert worker.events == ["dropped"]
    assert not worker.rights.may_send.is_set()
    assert "no right WRITE" in (worker.rights.problem() or "")
    # Another cause is none that this waits for: the process that begins again waits for it.
    worker.missing = [Cause("a broker is away")]
    until(lambda: worker.events == ["dropped", "begun again"])


def test_a_producer_that_can_send_nothing_for_want_of_rights_ends_no_worker(worker: Worker) -> None:
    worker.missing = [Cause("no right WRITE", FLOWS)]
    worker.rights.on_refused("the producer has no number")
    until(lambda: worker.looks > 3)
    worker.missing = []
    until(lambda: worker.events == ["dropped", "begun again"])


def test_another_refusal_ends_the_process(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def end(code: int) -> None:
        worker.events.append(code)
        ended.set()
        worker.stop.wait(60)

    monkeypatch.setattr(os, "_exit", end)
    worker.rights.on_refused("the topic was deleted")
    assert ended.wait(60)
    assert worker.events == [Exit.KAFKA]


def test_a_broker_that_does_not_tell_rights_is_tried_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_rights, "_UNSEEN_S", 0.01)
    worker.rights.on_refused("no right WRITE", FLOWS)
    until(lambda: worker.events == ["dropped", "begun again"])


def test_who_stops_does_not_begin_again(worker: Worker) -> None:
    worker.missing = [Cause("no right WRITE", FLOWS)]
    worker.rights.on_refused("no right WRITE", FLOWS)
    until(lambda: worker.looks > 3)
    worker.stop.set()
    worker.missing = []
    until(lambda: not any(one.name == "rights" for one in threading.enumerate()))
    assert worker.events == ["dropped"]
