"""The causes that are named while a service makes no progress."""

from __future__ import annotations

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
