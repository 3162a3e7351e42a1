"""A real Prometheus scrapes the real services: every query of the dashboards and of the rules finds its series."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemons import daemon
from tests.kafka.site import Service, until
from tests.services.conftest import Running
from tests.services.queries import RULES, dashboard_queries, rules, selectors
from tests.whole_lines import whole_lines

pytestmark = pytest.mark.e2e

_ROLES = ("enrich", "routes", "alerts", "journal")
_ELSEWHERE = re.compile(
    "watch_age_seconds|probe_cni_|probe_incomplete_pod|certificate_expires_seconds|damaged_state_files"
)
"""These exist with an API server, the CNI plugin, full maps, certificates, or damaged files only; tests/cluster,
tests/kernel, tests/enrich and tests/e2e have them."""


class Prometheus:
    """A Prometheus process with the project's rules."""

    def __init__(self, folder: Path, targets: dict[str, list[str]], rules: Path = RULES) -> None:
        """``targets`` has a list of host:port by job name."""
        self.log = folder / "prometheus.log"
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": listed}]} for job, listed in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    daemon("usr/bin/prometheus"), f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'tsdb'}", "--web.listen-address=127.0.0.1:0",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._address = until(self._listening, "Prometheus")
            until(self._is_ready, "Prometheus's database")
        except AssertionError:
            self.stop()
            raise

    def _listening(self) -> str | None:
        assert self._process.poll() is None, self.log.read_text()
        for line in whole_lines(self.log):
            if b"Listening on" in line:
                return line.decode().partition("address=")[2].split()[0]
        return None

    def _is_ready(self) -> bool:
        """Return whether it has opened its database; until then it refuses queries."""
        try:
            urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=120).close()
        except urllib.error.HTTPError as error:
            error.close()
            return False
        return True

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""
        url = f"http://{self._address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=120) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def unhealthy(self) -> list[dict[str, Any]]:
        """Return the rules whose last evaluation failed."""
        with urllib.request.urlopen(f"http://{self._address}/api/v1/rules", timeout=120) as answer:
            groups = json.load(answer)["data"]["groups"]
        return [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


def lint(text: str) -> str:
    """What promtool has against metrics; nothing if all is well."""
    done = subprocess.run(
        [daemon("usr/bin/promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def port(service: Service, role: str) -> str:
    return f"127.0.0.1:{service.wait_for('starting', role=role)['metrics_port']}"


def test_every_query_of_the_dashboards_and_of_the_rules_has_its_series(running: Running, tmp_path: Path) -> None:
    service, probe = running.service, running.probe
    targets = {
        "weir-probe": [f"127.0.0.1:{probe.wait_for('started')['metrics_port']}"],
        "weir-streams": [port(service, role) for role in _ROLES],
    }
    pages = [probe.get("/metrics")[1], *(service.get("/metrics", role)[1] for role in _ROLES)]
    assert [lint(page) for page in pages] == [""] * 5
    prometheus = Prometheus(tmp_path, targets)
    try:
        assert not wait_for_series(prometheus, running)
        assert not prometheus.unhealthy()
        denied = prometheus.ask('kubeweir_streams_verdicts_total{disposition="deny"}')
        assert {one["metric"]["namespace"] for one in denied} == {"shop"}
    finally:
        prometheus.stop()


def wait_for_series(prometheus: Prometheus, running: Running) -> dict[str, str]:
    """Sends packets until every query has an answer; those that have none after all that time, by what they are of."""
    wanted = {
        f"dashboard: {title}: {query}": query for title, query in dashboard_queries() if not _ELSEWHERE.search(query)
    }
    for rule in rules():
        if "record" in rule:
            wanted[f"rule {rule['record']}"] = rule["record"]
        else:
            # An alert's comparison has no answer while all is well: what it compares is to be there.
            wanted |= {
                f"alert {rule['alert']}: {one}": one for one in selectors(rule["expr"]) if not _ELSEWHERE.search(one)
            }

    def all_answered() -> bool | None:
        running.send()
        for name, query in list(wanted.items()):
            samples = prometheus.ask(query)
            # A ratio of nothing to nothing is NaN.
            if samples and not any(math.isnan(float(sample["value"][1])) for sample in samples):
                del wanted[name]
        return not wanted or None

    with contextlib.suppress(AssertionError):
        until(all_answered, "answers")
    return wanted
