"""Checks of the rules and the dashboards that need no service: promtool, and completeness."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from streams.web.query import read_query
from streams.web.views import PATHS
from tests.daemons import daemon
from tests.services.queries import DASHBOARDS, RULES, dashboard_queries, panels, rules, selectors

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


def test_the_dashboards_ask_for_what_is_there() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for _, query in dashboard_queries():
        for selector in selectors(query):
            if ":" in selector.partition("{")[0]:
                assert selector.partition("{")[0] in recorded


def test_each_panel_says_what_it_shows_and_leads_to_a_view_of_the_page() -> None:
    for dashboard, panel in panels():
        where = f"{dashboard}: {panel['title']}"
        assert panel["description"].strip(), where
        (link,) = panel["links"]
        address, _, parameters = link["url"].partition("?")
        assert address.startswith("${page}/"), where
        assert address.removeprefix("${page}") in PATHS, where
        # The page refuses a filter that can fit nothing.
        shown = parse_qsl(parameters.replace("${namespace:percentencode}", "shop"), strict_parsing=True)
        assert read_query(shown).window, where


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_grafanas_schema_knows_all_of_a_dashboard(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    assert [*_unknown(dashboard)] == []
    assert dashboard["uid"] == f"kubeweir-{file.stem}"
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)", file.read_text())) - {"__rate_interval"} <= variables
    found = dashboard["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    cells = [cell for panel in found for cell in _cells(panel["gridPos"])]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(column for column, _ in cells) == 23


def test_a_key_that_grafana_would_ignore_is_found() -> None:
    dashboard = json.loads(DASHBOARDS[0].read_text())
    panel = next(one for one in dashboard["panels"] if one["type"] == "stat")
    panel["titel"] = panel["options"]["colourMode"] = "x"
    panel["targets"][0]["query"] = "up"
    found = [*_unknown(dashboard)]
    assert [one.rpartition(".")[2] for one in found] == ["query", "colourMode", "titel"]


def _unknown(dashboard: dict[str, Any]) -> list[str]:
    """Return the keys and values that Grafana's own types, made from its schema, do not keep."""
    register_default_plugins()
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    # Keys of a kind of data source in an annotation are not part of the schema of dashboards.
    return [one for one in _lost(dashboard, kept, "") if one != ".annotations.list[0].titleFormat"]


def _lost(given: Any, kept: Any, place: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from _lost(value, kept[name], f"{place}.{name}")
            else:
                yield f"{place}.{name}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{place}[{number}]")
    elif given != kept:
        yield place


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for column in range(place["x"], place["x"] + place["w"]):
        yield from ((column, line) for line in range(place["y"], place["y"] + place["h"]))
