"""Brokers are frozen, or return at another address: every role says so, and works again soon after they do.

A real Prometheus with the shipped rules sees it, too; only the time for which a rule must hold is cut.
"""

from __future__ import annotations

import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.main import ROLES
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.movable import MovableBroker, free_port
from tests.kafka.site import Site, ids_of, until
from tests.services.queries import RULES
from tests.services.test_prometheus import Prometheus

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

_LAG_OF_FILE = re.compile(r'^kubeweir_streams_group_lag_records\{group="[^"]*sink\.file"\} 0\.0$', re.MULTILINE)
RUNNING = ("enrich", "file", "alerts")


class Roles:
    """A supervised enricher, sink and alerts, with ports that stay when a role is restarted."""

    def __init__(self, broker: MovableBroker, folder: Path) -> None:
        write_manifests(folder / "manifests")
        self.site = Site(broker.address, f"t{secrets.token_hex(4)}", folder)
        self.broker = broker
        self.output, self.sent = folder / "flows.log", 0
        self.first_port = free_port()
        self.service = self.site.start(
            *RUNNING, WEIR_STALL="4", WEIR_FILE_PATH=str(self.output), WEIR_METRICS=f"127.0.0.1:{self.first_port}"
        )

    def get(self, role: str, path: str = "/readyz") -> str:
        """Return a page of a role or of all, whatever its status; what went wrong if there is none."""
        port = self.first_port + [*ROLES, "all"].index(role)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {error.read().decode()}"
        except OSError as error:
            return f"no answer: {error}"

    def send(self, verdicts: int) -> None:
        self.site.send(make_batch(self.sent, verdicts, denied=True))
        self.sent += verdicts

    def wait_until_all_is_well(self) -> None:
        """Wait until the file has every record, and every role is ready."""
        self.site.flush()
        expected = {f"r1-{number}" for number in range(self.sent)}
        until(lambda: expected == ids_of(self.output) or None, f"{self.sent} records: {self.pages()}")
        until(lambda: set(self.pages().values()) == {"ok\n"} or None, f"readiness: {self.pages()}")

    def prometheus(self) -> Prometheus:
        """Start a Prometheus that scrapes the roles."""
        rules = self.site.folder / "rules.yml"
        rules.write_text(re.sub(r"for: \d+m", "for: 1s", RULES.read_text()))
        ports = [self.first_port + ROLES.index(role) for role in RUNNING]
        return Prometheus(self.site.folder, {"weir-streams": [f"127.0.0.1:{port}" for port in ports]}, rules)

    def pages(self) -> dict[str, str]:
        return {role: self.get(role) for role in (*RUNNING, "all")}


@pytest.fixture
def roles(tmp_path: Path) -> Iterator[Roles]:
    broker = MovableBroker(tmp_path)
    broker.start()
    made = Roles(broker, tmp_path)
    yield made
    made.site.end()
    broker.close()


def test_every_role_tells_the_truth_about_frozen_and_moved_brokers(
    roles: Roles, request: pytest.FixtureRequest
) -> None:
    broker = roles.broker
    prometheus = roles.prometheus()

    def alerts() -> set[str]:
        found = prometheus.ask('ALERTS{alertname="WeirNotReady", alertstate="firing"}')
        return {one["metric"]["check"] for one in found}

    request.addfinalizer(prometheus.stop)
    until(lambda: set(roles.pages().values()) == {"ok\n"} or None, f"the start: {roles.pages()}")
    roles.send(10)
    roles.wait_until_all_is_well()
    with broker.frozen():
        roles.send(10)
        until(lambda: all(page.startswith("503 ") for page in roles.pages().values()) or None, "503 of every role")
        assert all("Kafka has" in page for page in roles.pages().values())
        until(lambda: alerts() >= {"kafka", "file", "alerts"} or None, "an alert for each role")
    roles.wait_until_all_is_well()
    until(lambda: not alerts() or None, "the end of the alerts")
    broker.move()
    roles.send(10)
    roles.wait_until_all_is_well()
    until(lambda: _LAG_OF_FILE.search(roles.get("file", "/metrics")), "no lag")
    assert 'kubeweir_streams_last_success_age_seconds{call="commit"}' in roles.get("file", "/metrics")
