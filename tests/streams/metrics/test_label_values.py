"""Values from records that make time series, groups or entries: any number may come, and a bounded number is kept."""

from __future__ import annotations

import logging

import orjson
import pytest
from prometheus_client import CollectorRegistry

from enrich.wire.batch import VERDICT, Header
from streams.alerts.deltas import Delta
from streams.alerts.engine import Engine
from streams.metrics.label_values import OTHER, LabelValues
from streams.metrics.roles import LOSS_REASONS, AlertMetrics
from streams.sinks import alertmanager
from streams.sinks.alertmanager import AlertmanagerSink
from streams.worker import library_logs
from streams.worker.library_logs import _Forward
from streams.worker.losses import Loss, Losses
from tests.streams.alerts.makers import rule


def header(ring: str, first: int = 0, lost: dict[str, tuple[int, int]] | None = None) -> Header:
    return Header(v=1, cluster="c", node="n", ring=ring, first=first, verdicts=1, verdict_bytes=VERDICT.itemsize,
                  clock=0, lost=lost or {})  # fmt: skip


def test_known_values_and_the_first_others_are_told_apart() -> None:
    values = LabelValues(1, ["known"])
    assert [values.of(one) for one in ("new", "known", "newer", "new")] == ["new", "known", OTHER, "new"]
    assert values.of_all(("a", "b")) == (OTHER, OTHER)


def test_a_probe_that_reports_ever_new_reasons_makes_a_bounded_number_of_them() -> None:
    losses, reasons = Losses(), set()
    for batch in range(100):
        lost = {f"r{batch}x{number}": (1, 1) for number in range(64)}
        found = losses.detect(0, header("r", batch, lost))
        assert sum(loss.verdicts for loss in found) == 64
        reasons |= {loss.reason for loss in found if isinstance(loss, Loss)}
    assert OTHER in reasons
    assert len(reasons) < 40
    assert Loss("lost", LOSS_REASONS[0], 3) in losses.detect(0, header("r", 100, {LOSS_REASONS[0]: (3, 3)}))


def test_counts_of_reasons_that_share_a_name_stay_in_64_bits() -> None:
    losses = Losses()
    lost = {f"r{number}": ((1 << 63) - 1, (1 << 63) - 1) for number in range(64)}
    assert max(loss.verdicts for loss in losses.detect(0, header("r", 0, lost))) == (1 << 63) - 1


def test_the_rings_that_were_seen_last_are_remembered() -> None:
    losses = Losses(max_rings=2)
    for ring in ("a", "b", "a", "c"):
        losses.detect(0, header(ring))
    assert losses.detect(0, header("a", 10)) == [Loss("gap", "gap", 9, 1)]
    assert losses.detect(0, header("b", 10)) == []


def test_deltas_that_name_unknown_rules_share_a_label() -> None:
    registry = CollectorRegistry()
    metrics = AlertMetrics(registry)
    engine = Engine(
        [rule(above={"threshold": 1})], 10, lambda name, what, number: metrics.events.labels(name, what).inc(number)
    )
    engine.take([Delta(f"rule{number}", "v", ["c1", "x"], {1: 1}) for number in range(1000)], 100.0)
    engine.take([Delta("one", "v", ["c1", "x"], {1: 1})], 100.0)
    series = {(one.labels["rule"], one.value) for family in registry.collect() for one in family.samples
              if one.name == "kubeweir_streams_alerts_events_total"}  # fmt: skip
    assert series == {(OTHER, 1000), ("one", 1)}


def test_alerts_that_are_repeated_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    class Poster:
        def post(self, alerts: object) -> None: ...

    monkeypatch.setattr(alertmanager, "_MAX_REPEATED", 20)
    sink = AlertmanagerSink(Poster(), 60, lambda: 100.0)  # type: ignore[arg-type]
    for number in range(50):
        record = {"fingerprint": str(number), "status": "firing", "labels": {}, "annotations": {}, "startsAt": ""}
        sink.write([orjson.dumps(record)])
    assert len(sink._repeated) <= 20
    assert "49" in sink._repeated
    sink.own(lambda: [{**record, "fingerprint": f"loaded {number}"} for number in range(50)])
    sink.write([])
    assert len(sink._repeated) <= 20
    assert "loaded 49" in sink._repeated


def test_lines_of_libraries_that_are_remembered_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_logs, "_MAX_LINES", 5)
    handler = _Forward(lambda: None)
    for number in range(50):
        handler.emit(logging.LogRecord("aiokafka", logging.WARNING, "", 0, f"offset {number}", (), None))
    assert len(handler._logged_at) <= 5
