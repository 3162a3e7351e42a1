"""The causes that are named while a service makes no progress."""

from __future__ import annotations

import threading

import pytest

from enrich.diagnosis import watch
from enrich.diagnosis.rights import Cause, Needs
from enrich.diagnosis.watch import Diagnosis
from tests.waiting import until


def test_a_cause_is_over_as_soon_as_the_service_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [Cause("no broker")]
    monkeypatch.setattr(watch, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(watch, "_LOOK_S", 0.01)
    monkeypatch.setattr(watch, "_FIRST_BACKOFF_S", 3600.0)
    monkeypatch.setattr(watch, "causes", lambda _connection, _needs: list(broken))
    diagnosis = Diagnosis(dict, Needs)
    check = diagnosis.named("kafka", lambda: "is away" if broken else None)
    diagnosis.start()
    try:
        until(lambda: check() == "no broker; is away")
        assert diagnosis.causes() == [Cause("no broker")]
        broken.clear()
        until(lambda: check() is None)
        assert diagnosis.causes() == []
    finally:
        diagnosis.stop()


@pytest.mark.parametrize("news", ["other needs", "a refused client"])
def test_the_next_look_is_soon_if_there_is_more_to_see(monkeypatch: pytest.MonkeyPatch, news: str) -> None:
    """A start that takes long is looked into early, when there is nothing to find yet."""
    monkeypatch.setattr(watch, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(watch, "_LOOK_S", 0.01)
    monkeypatch.setattr(watch, "_SOONEST_S", 0.0)
    monkeypatch.setattr(watch, "_FIRST_BACKOFF_S", 3600.0)
    looks, needs, begun, ends = list[Needs](), [Needs()], threading.Event(), threading.Event()

    def look(_connection: object, needed: Needs) -> list[Cause]:
        looks.append(needed)
        if len(looks) > 1:
            return [Cause("no right")]
        begun.set()
        ends.wait()
        return []

    monkeypatch.setattr(watch, "causes", look)
    diagnosis = Diagnosis(dict, lambda: needs[0])
    check = diagnosis.named("kafka", lambda: "is refused")
    diagnosis.start()
    try:
        # What is new during a look, too, counts for the next one.
        assert begun.wait(60)
        if news == "other needs":
            needs[0] = Needs(groups=frozenset({"g"}))
        else:
            diagnosis.suspect()
        ends.set()
        until(lambda: check() == "no right; is refused")
        assert looks == [Needs(), needs[0]]
    finally:
        diagnosis.stop()


def test_a_client_that_was_refused_during_a_look_is_looked_into_though_no_check_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(watch, "_LOOK_S", 0.01)
    monkeypatch.setattr(watch, "_SOONEST_S", 0.0)
    found: list[list[Cause]] = [[], [Cause("no right")]]

    def look(_connection: object, _needs: Needs) -> list[Cause]:
        if len(found) > 1:
            diagnosis.suspect()
            return found.pop(0)
        return found[0]

    monkeypatch.setattr(watch, "causes", look)
    diagnosis = Diagnosis(dict, Needs)
    check = diagnosis.named("kafka", lambda: None)
    diagnosis.suspect()
    diagnosis.start()
    try:
        until(lambda: check() == "no right")
    finally:
        diagnosis.stop()
