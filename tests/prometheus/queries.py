"""The queries of the dashboard and the rules file, as a Prometheus is to be asked them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana/kubeweir.json"
RULES = DEPLOY / "prometheus/kubeweir.rules.yml"
_VARIABLES = {"$__rate_interval": "15s", "$probe": ".*"}
"""What Grafana puts in, for scrapes a second apart."""
_SELECTOR = re.compile(r"[a-z_]*:?(?:kubeweir_[a-z0-9_]+|\bup\b|process_[a-z_]+)(?::[a-z0-9]+)?(?:\{[^}]*\})?")


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Title of the panel and query, with Grafana's variables filled in."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in _VARIABLES.items():
                query = query.replace(name, value)
            assert "$" not in query, f"{panel['title']}: a variable that this test does not know: {query}"
            yield panel["title"], query


def rules() -> list[dict[str, Any]]:
    """Every rule of the file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def selectors(query: str) -> list[str]:
    """The series that a query is about."""
    found = _SELECTOR.findall(query)
    assert found, f"no series in {query}"
    return found
