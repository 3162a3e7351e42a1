"""The role `alerts` on a real Kafka: alerts of real batches, through kills and changes of its file."""

from __future__ import annotations

import json
import os
import re
import signal
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest

from tests.kafka.batches import make_batch
from tests.kafka.hook import Hook
from tests.kafka.site import Service, Site, until

pytestmark = pytest.mark.kafka
SCHEMA = orjson.loads((resources.files("streams") / "schemas/alert.schema.json").read_bytes())


BURST = {
    "name": "burst", "group_by": ["subject.workload"], "above": {"threshold": 50, "window": "10m"},
    "resolve_after": "2s", "annotations": {"say": "{{ count }}: {{ example }}"},
}  # fmt: skip
ALL = ["deny-burst", "port-scan", "host-scan", "first-deny", "denied-after-change", "pipeline-loss"]


def write(site: Site, *rules: dict[str, Any], outputs: tuple[dict[str, Any], ...] = (), disable: list[str]) -> str:
    path = site.folder / "alerts.yaml"
    path.write_text(json.dumps({"version": 1, "rules": rules, "outputs": outputs, "disable": disable}))
    return str(path)


def start(site: Site, **more: str) -> Service:
    service = site.start("alerts", "--alone", **{"WEIR_ALERT_LEARN": "0", **more})
    until(lambda: service.get("/readyz", "alerts")[0] == 200 or None, "readiness")
    return service


def alerts(site: Site, count: int) -> list[dict[str, Any]]:
    """At least so many different alerts, of which none came twice; each as its schema says."""
    found = [orjson.loads(one.value() or b"") for one in site.read("alerts", lambda all_: len(all_) >= count)]
    for one in found:
        jsonschema.validate(one, SCHEMA, cls=jsonschema.Draft202012Validator)
    ids = [one["id"] for one in found]
    assert len(ids) == len(set(ids))
    return found


def send(site: Site, first: int, rows: int, **fields: Any) -> None:
    site.send(make_batch(first, rows, denied=True, **fields))
    site.flush()


def distinct(hook: Hook) -> list[dict[str, Any]]:
    """Return what a webhook got, each once: a kill between its answer and the commit repeats an alert, by its id."""
    return list({alert["id"]: alert for alert in hook.alerts}.values())


def test_a_burst_fires_and_resolves_and_a_kill_9_of_the_role_loses_and_repeats_nothing(site: Site, hook: Hook) -> None:
    path = write(site, BURST, outputs=({"name": "hook", "webhook": {"url": hook.url}},), disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    send(site, 0, 30)
    until(lambda: "records" in service.get("/metrics", "alerts")[1] or None, "metrics")
    counted = 'kubeweir_streams_alerts_counted_total{what="records"} 30.0'
    until(lambda: counted in service.get("/metrics", "alerts")[1] or None, "30 records")
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    # 20 more while it is down: with those before they are a burst, without them they are none.
    send(site, 30, 20)
    service = start(site, WEIR_ALERTS=path)
    (fired,) = until(lambda: hook.alerts or None, "the alert")
    assert (fired["status"], fired["rule"], fired["count"]) == ("firing", "burst", 50)
    assert fired["examples"][0]["src"]["pod_name"] == "web-0"
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    service = start(site, WEIR_ALERTS=path)
    service.wait_for("alert partitions assigned", firing=1)
    send(site, 50, 5)
    until(lambda: counted.replace("30", "5") in service.get("/metrics", "alerts")[1] or None, "5 records")
    # What was counted is not enough any more: it is quiet.
    output = {"name": "hook", "webhook": {"url": hook.url}}
    write(site, {**BURST, "above": {"threshold": 1000, "window": "10m"}}, outputs=(output,), disable=ALL)
    until(lambda: len(distinct(hook)) > 1 or None, "its end")
    assert [one["status"] for one in distinct(hook)] == ["firing", "resolved"]
    assert distinct(hook)[1]["startsAt"] == fired["startsAt"]
    assert [one["id"] for one in alerts(site, 2)] == [one["id"] for one in distinct(hook)]
    assert service.stop() == 0


def test_repeats_of_the_enricher_count_once(site: Site) -> None:
    path = write(site, BURST, disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    for _ in range(3):
        send(site, 0, 30)
    repeats = 'kubeweir_streams_alerts_counted_total{what="repeats"} 60.0'
    until(lambda: repeats in service.get("/metrics", "alerts")[1] or None, "60 repeats")
    assert 'kubeweir_streams_alerts_firing{rule="burst"} 0.0' in service.get("/metrics", "alerts")[1]
    send(site, 30, 20)
    assert alerts(site, 1)[0]["count"] == 50


def test_repeats_of_old_verdicts_count_once_also_after_a_kill_of_the_role(site: Site) -> None:
    path = write(site, BURST, disable=ALL)
    enricher = site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    # As after an outage: the verdicts are older than any repeat of a worker that was only restarted.
    send(site, 0, 30, age_s=300)
    counted = 'kubeweir_streams_alerts_counted_total{what="records"} 30.0'
    until(lambda: counted in service.get("/metrics", "alerts")[1] or None, "30 records")
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    service = start(site, WEIR_ALERTS=path)
    send(site, 0, 30, age_s=300)
    repeats = 'kubeweir_streams_alerts_counted_total{what="repeats"} 30.0'
    until(lambda: repeats in service.get("/metrics", "alerts")[1] or None, "30 repeats")
    send(site, 30, 20, age_s=300)
    assert alerts(site, 1)[0]["count"] == 50
    assert (service.stop(), enricher.stop()) == (0, 0)


def test_two_workers_share_the_groups_and_one_takes_over_what_the_other_had(site: Site) -> None:
    each = {**BURST, "group_by": ["port"], "resolve_after": "1h"}
    path = write(site, each, disable=ALL)
    site.start_enrich()
    first, second = (start(site, WEIR_ALERTS=path) for _ in range(2))
    ports = np.repeat(np.arange(40), 30)
    send(site, 0, len(ports), destination_port=ports)

    def taken(*services: Service) -> float:
        lines = [line for one in services for line in one.get("/metrics", "alerts")[1].splitlines()]
        return sum(float(line.split()[-1]) for line in lines if line.startswith("kubeweir_streams_alerts_groups{"))

    until(lambda: True if taken(first, second) == 40 else None, "the groups")
    assert 0 < taken(first) < 40
    first.process.kill()
    first.process.wait()
    send(site, len(ports), len(ports), destination_port=ports)
    found = alerts(site, 40)
    assert {one["group"]["port"] for one in found} == {str(port) for port in range(40)}
    assert all(50 <= one["count"] <= 60 for one in found)


def test_what_cannot_be_delivered_waits_and_what_is_refused_for_good_is_a_dead_letter(site: Site, hook: Hook) -> None:
    hook.status = 503
    info = {**BURST, "name": "info", "severity": "info"}
    path = write(site, BURST, info, outputs=({"name": "hook", "webhook": {"url": hook.url}},), disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    send(site, 0, 50)
    service.wait_for("the destination cannot take records; retrying", sink="alerts.hook")
    assert service.get("/readyz", "alerts")[0] == 503
    hook.status = 200
    until(lambda: hook.alerts or None, "the alert")
    assert {one["rule"] for one in hook.alerts} == {"burst"}
    dead = site.read("dead", bool)
    headers = dict(dead[0].headers() or [])
    assert (headers["reason"], headers["topic"]) == (b"sink_refused", f"{site.prefix}.alerts".encode())
    assert headers["output"].decode().startswith(f"{site.prefix}.")
    assert orjson.loads(dead[0].value() or b"")["rule"] == "info"
    text = service.get("/metrics", "alerts")[1]
    assert 'kubeweir_streams_sink_failures_total{sink="alerts.hook"}' in text
    assert 'kubeweir_streams_sink_refused_total{sink="alerts.hook"} 1.0' in text


def test_a_new_webhook_begins_with_what_fires_now_and_a_new_rule_learns(site: Site, hook: Hook) -> None:
    past = {**BURST, "name": "past", "above": {"threshold": 50, "window": "1s"}, "resolve_after": "0s"}
    now = {**BURST, "name": "now", "resolve_after": "1h"}
    new = {"name": "new", "group_by": ["port"], "first": {}}
    path = write(site, past, now, new, disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path, WEIR_ALERT_LEARN="3600")
    send(site, 0, 50)
    assert [one["status"] for one in alerts(site, 3) if one["rule"] == "past"] == ["firing", "resolved"]
    path = write(site, past, now, new, outputs=({"name": "hook", "webhook": {"url": hook.url}},), disable=ALL)
    until(lambda: hook.alerts or None, "what fires")
    lag = 'kubeweir_streams_sink_lag_records{sink="alerts.hook"} 0.0'
    until(lambda: lag in service.get("/metrics", "alerts")[1] or None, "a committed begin")
    assert service.stop() == 0
    service = start(site, WEIR_ALERTS=path, WEIR_ALERT_LEARN="3600")
    send(site, 50, 50)
    until(lambda: len(hook.alerts) > 1 or None, "the next alert")
    assert [(one["rule"], one["status"]) for one in hook.alerts[:2]] == [("now", "firing"), ("past", "firing")]
    assert 'what="learned"} 0.0' not in service.get("/metrics", "alerts")[1]
    assert service.stop() == 0


def test_a_changed_file_is_applied_and_a_bad_one_changes_nothing(site: Site) -> None:
    path = write(site, {**BURST, "above": {"threshold": 1000, "window": "10m"}}, disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path)
    send(site, 0, 60)
    Path(path).write_text("version: 1\nrules: [{name: burst}]\n")
    line = service.wait_for("the alerts file is refused; the last good one stays in force")
    problem = "rules[0]: a rule must have exactly one of above, first, after_change; this one has 0"
    assert line["problems"] == [f"{path}:2: {problem}"]
    assert service.get("/readyz", "alerts")[0] == 503
    write(site, BURST, disable=ALL)
    # The 60 were counted under the old threshold, and still count.
    assert alerts(site, 1)[0]["count"] == 60
    until(lambda: service.get("/readyz", "alerts")[0] == 200 or None, "readiness")


def test_the_built_in_rules_report_denials_after_a_policy_change_and_losses(site: Site) -> None:
    manifests = site.folder / "manifests"
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
              "metadata": {"namespace": "shop", "name": "web-allow-api", "uid": "u1"},
              "spec": {"podSelector": {}, "egress": [{}], "policyTypes": ["Egress"]}}  # fmt: skip
    (manifests / "policy.json").write_text(json.dumps(policy))
    service = site.start(WEIR_ALERT_LEARN="0")
    service.wait_for("partitions assigned")
    service.wait_for("alert partitions assigned")
    policy["spec"] = {"podSelector": {}, "egress": [], "policyTypes": ["Egress"]}
    (manifests / "policy.json").write_text(json.dumps(policy))
    send(site, 0, 1)
    send(site, 11, 1)
    found = {one["rule"]: one for one in alerts(site, 3)}
    assert set(found) == {"denied-after-change", "first-deny", "pipeline-loss"}
    assert found["denied-after-change"]["policy"] == "NetworkPolicy shop/web-allow-api"
    assert found["denied-after-change"]["change"] == "updated (egress: 1 rules, then 0)"
    assert [pair["port"] for pair in found["denied-after-change"]["pairs"]] == ["8080"]
    assert found["pipeline-loss"]["group"]["kind"] == "gap"
    assert found["pipeline-loss"]["count"] == 10
    assert service.stop() == 0


def test_a_change_that_cuts_forty_pairs_makes_one_alert_and_a_new_cluster_is_quiet(site: Site) -> None:
    manifests = site.folder / "manifests"
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
              "metadata": {"namespace": "shop", "name": "web-allow-api", "uid": "u1"},
              "spec": {"podSelector": {}, "egress": [{}], "policyTypes": ["Egress"]}}  # fmt: skip
    (manifests / "policy.json").write_text(json.dumps(policy))
    service = site.start()  # with every built-in rule, and WEIR_ALERT_LEARN as it is
    service.wait_for("partitions assigned")
    service.wait_for("alert partitions assigned")
    policy["spec"] = {"podSelector": {}, "egress": [], "policyTypes": ["Egress"]}
    (manifests / "policy.json").write_text(json.dumps(policy))
    # The forty are distinct ports; the last one is denied twice.
    send(site, 0, 41, destination_port=np.array([*range(9000, 9040), 9039]))
    fired = until(
        lambda: next((one for one in alerts(site, 1) if one["rule"] == "denied-after-change"), None),
        "the alert of the change",
    )
    assert (fired["pairs_total"], fired["count"]) == (40, 41)
    assert [(one["port"], one["count"]) for one in fired["pairs"][:2]] == [("9039", 2), ("9000", 1)]
    assert fired["annotations"]["backtest"] == "weir backtest --delete NetworkPolicy/shop/web-allow-api --since 1h"
    assert fired["annotations"]["explain"].startswith("weir explain shop/web-0 shop/api-0:9039")
    learned = re.compile(r'events_total\{rule="first-deny",what="learned"\} ([0-9.]+)')
    found = until(lambda: learned.search(service.get("/metrics", "alerts")[1]), "what first-deny has learned")
    assert float(found[1]) == 1
    # What has a window of a minute fires as well; the change makes one alert, and the first denial none.
    rules = [one["rule"] for one in alerts(site, 1) if one["status"] == "firing"]
    assert rules.count("denied-after-change") == 1
    assert "first-deny" not in rules
    assert service.stop() == 0


def test_an_invalid_file_or_a_missing_header_variable_exits_2(site: Site) -> None:
    service = site.start("alerts", "--alone", WEIR_ALERTS=str(site.folder / "none.yaml"))
    assert service.process.wait(240) == 2
    assert "WEIR_ALERTS" in service.log.read_text()
    hook = {"name": "a", "webhook": {"url": "http://127.0.0.1:1", "headers": {"Authorization": "NO_SUCH"}}}
    service = site.start("alerts", "--alone", WEIR_ALERTS=write(site, outputs=(hook,), disable=[]))
    assert service.process.wait(240) == 2
    assert "NO_SUCH is not in the environment" in service.log.read_text()
    assert os.environ.get("NO_SUCH") is None
