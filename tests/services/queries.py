"""The queries of the dashboards and of the rules file, in a form that Prometheus evaluates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
RULES = DEPLOY / "prometheus/kubeweir.rules.yml"
_VARIABLES = {"$__rate_interval": "15s", "$probe": ".*", "$namespace": "shop"}
"""Values of Grafana's variables, for a scrape interval of one second."""
_SELECTOR = re.compile(r"[a-z_]*:?(?:kubeweir_[a-z0-9_]+|\bup\b|process_[a-z_]+)(?::[a-z0-9]+)?(?:\{[^}]*\})?")


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each dashboard with each of its panels, but those that are headings."""
    for file in DASHBOARDS:
        yield from ((file.stem, panel) for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row")


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield the panel's title and the query, with Grafana's variables replaced."""
    for dashboard, panel in panels():
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in _VARIABLES.items():
                query = query.replace(name, value)
            assert "$" not in query, f"{panel['title']}: a variable that this test does not know: {query}"
            yield f"{dashboard}: {panel['title']}", query


def rules() -> list[dict[str, Any]]:
    """Return every rule of the file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def selectors(query: str) -> list[str]:
    """Return the series selectors of a query."""
    found = _SELECTOR.findall(query)
    assert found, f"no series in {query}"
    return found
