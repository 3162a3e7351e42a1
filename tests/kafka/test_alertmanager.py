"""Alerts in a real Alertmanager: firing, repeated, resolved, through kills of either side and an outage of 20 s."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ports import free_port

from tests.kafka.alertmanager import Alertmanager
from tests.kafka.site import Service, Site, until
from tests.kafka.test_alerts import ALL, BURST, alerts, send, start, write

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
_RECEIVED = 'alertmanager_alerts_received_total{status="firing",version="v2"}'


@pytest.fixture
def am(tmp_path: Path) -> Iterator[Alertmanager]:
    made = Alertmanager(tmp_path, free_port())
    try:
        made.start()
        yield made
    finally:
        made.kill()


def output(am: Alertmanager, resend: str = "1s") -> dict[str, object]:
    return {"name": "am", "alertmanager": {"url": am.url, "resend": resend}}


def test_it_fires_is_repeated_and_resolves_with_its_labels(site: Site, am: Alertmanager) -> None:
    rule = {**BURST, "labels": {"team": "{{ subject.workload }}s"}, "resolve_after": "1h"}
    path = write(site, rule, outputs=(output(am),), disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    send(site, 0, 50)
    (found,) = until(lambda: am.alerts(alertname="burst") or None, "the alert")
    labels = {"severity": "warning", "cluster": "c1", "team": "Pod/web-0s", "subject_workload": "Pod/web-0"}
    assert labels.items() <= found["labels"].items()
    assert found["annotations"]["say"].startswith("50: deny egress shop/web-0 -> shop/api-0:8080 tcp")
    (told,) = alerts(site, 1)
    assert datetime.fromisoformat(found["startsAt"]) == datetime.fromisoformat(told["startsAt"])
    # It is repeated, with an end that moves on: without that it would be over in four seconds.
    before, ends = am.metric(_RECEIVED), found["endsAt"]
    until(lambda: True if am.metric(_RECEIVED) > before + 5 else None, "repeats")
    (again,) = am.alerts(alertname="burst")
    assert again["endsAt"] > ends
    assert (again["fingerprint"], again["startsAt"]) == (found["fingerprint"], found["startsAt"])
    write(site, {**rule, "above": {"threshold": 1000, "window": "10m"}, "resolve_after": "1s"}, outputs=(output(am),),
          disable=ALL)  # fmt: skip
    until(lambda: True if not am.alerts(alertname="burst") else None, "its end")
    assert [one["status"] for one in alerts(site, 2)] == ["firing", "resolved"]
    assert service.stop() == 0


def test_an_outage_of_20_s_delays_alerts_and_loses_none(site: Site, am: Alertmanager) -> None:
    each = {**BURST, "group_by": ["port"], "resolve_after": "1h"}
    path = write(site, each, outputs=(output(am),), disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    send(site, 0, 50, destination_port=1)
    until(lambda: am.alerts(port="1") or None, "the first")
    am.kill()
    down = time.monotonic()
    send(site, 50, 50, destination_port=2)
    service.wait_for("the destination cannot take records; retrying", sink="alerts.am")
    # The rest goes on meanwhile: the topic has it.
    assert len(alerts(site, 2)) == 2
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    service = start_anew(site, path)
    send(site, 100, 50, destination_port=3)
    assert len(alerts(site, 3)) == 3
    time.sleep(max(0.0, 20 - (time.monotonic() - down)))  # an outage takes its time
    am.start()
    # It has lost what it knew; it is told of what came before, meanwhile and in another's life.
    until(lambda: True if {one["labels"]["port"] for one in am.alerts()} == {"1", "2", "3"} else None, "all three")
    assert 'kubeweir_streams_sink_failures_total{sink="alerts.am"}' in service.get("/metrics", "alerts")[1]
    assert service.stop() == 0


def start_anew(site: Site, path: str) -> Service:
    """Not ready, because its destination is away, but still working."""
    service = site.start("alerts", "--alone", WEIR_ALERTS=path)
    service.wait_for("alert partitions assigned", firing=2)
    return service


def test_an_alert_that_is_no_longer_repeated_is_resolved(site: Site, am: Alertmanager) -> None:
    path = write(site, {**BURST, "resolve_after": "1h"}, outputs=(output(am),), disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    send(site, 0, 50)
    (found,) = until(lambda: am.alerts() or None, "the alert")
    assert datetime.fromisoformat(found["endsAt"]) > datetime.now(UTC)
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    until(lambda: True if not am.alerts() else None, "its end")


def test_the_setting_alone_is_enough(site: Site, am: Alertmanager) -> None:
    site.start_enrich()
    service = start(site, WEIR_ALERTMANAGER=am.url)
    send(site, 0, 1)
    found = until(lambda: am.alerts(alertname="first-deny") or None, "the alert")
    assert found[0]["labels"]["dest_workload"] == "Pod/api-0"
    assert service.stop() == 0
