"""Checks of the rules and the dashboard that need no service: promtool, and completeness."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.daemons import daemon
from tests.services.queries import DASHBOARD, RULES, dashboard_queries, rules, selectors

CASES = Path(__file__).with_name("rules.test.yml")


@pytest.mark.parametrize(("command", "path"), [("check", RULES), ("test", CASES)])
def test_promtool_takes_the_rules_and_each_alert_fires(command: str, path: Path) -> None:
    done = subprocess.run(
        [daemon("usr/bin/promtool"), command, "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing() -> None:
    fired = {
        sample["labels"].split('"')[1]
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for query in case["promql_expr_test"]
        for sample in query["exp_samples"]
        if "alertname=" in sample["labels"]
    }
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert {"summary", "description"} == rule["annotations"].keys()


def test_the_dashboard_asks_for_what_is_there() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for _, query in dashboard_queries():
        for selector in selectors(query):
            if ":" in selector.partition("{")[0]:
                assert selector.partition("{")[0] in recorded
