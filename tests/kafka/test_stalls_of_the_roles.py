"""Brokers are frozen, away, or return at another address, or topics are made again: every role says so, and works again
soon after they do.

A real Prometheus with the shipped rules sees it, too, and further faults of the roles; only the times and the number of
restarts after which a rule holds are cut.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from ports import free_ports

from streams.main import PORTS, ROLES
from tests.chaos.workers import role_processes
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.movable import MovableBroker
from tests.kafka.site import Site, ids_of, make_again, until
from tests.pages import page_of
from tests.services.queries import RULES
from tests.services.test_prometheus import Prometheus
from tests.waiting import is_frozen

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

_LAG_OF_FILE = re.compile(r'^kubeweir_streams_group_lag_records\{group="[^"]*sink\.file"\} 0\.0$', re.MULTILINE)
_STALL_S = 4
_PATIENCE_S = 240
"""Six processes may be starting at the same time, on few cores."""
_KILLED = re.compile(r'"exit_code": (-\d+)')
_ID = re.compile(r'"id":"(r1-\d+)"')


class Roles:
    """All roles, supervised, with ports that stay when a role is restarted."""

    def __init__(self, broker: MovableBroker, folder: Path) -> None:
        write_manifests(folder / "manifests")
        self.site = Site(broker.address, f"t{secrets.token_hex(4)}", folder)
        self.broker = broker
        self.output, self.routed, self.sent = folder / "flows.log", folder / "routed.log", 0
        self.first_port = free_ports(len(PORTS) + 3)
        self.page, self.hubble = (f"127.0.0.1:{self.first_port + len(PORTS) + number}" for number in (1, 2))
        self._routes = folder / "routes.yaml"
        self.route()
        self.service = self.site.start(
            *PORTS, WEIR_STALL=str(_STALL_S), WEIR_FILE_PATH=str(self.output), WEIR_ROUTES=str(self._routes),
            WEIR_METRICS=f"127.0.0.1:{self.first_port}", WEIR_WEB=self.page, WEIR_HUBBLE=self.hubble,
        )  # fmt: skip

    def route(self, *more: str) -> None:
        """Route all records to the file, and by further routes in YAML's flow style."""
        listed = ", ".join([f"{{name: all, outputs: [{{file: {{path: {self.routed}}}}}]}}", *more])
        self._routes.write_text(f"version: 1\nroutes: [{listed}]\n")

    def signal(self, role: str, how: signal.Signals) -> int:
        """Send a signal to the process of a role, as soon as it has one; return the process."""
        pid = until(lambda: role_processes(self.service.process.pid).get(role), f"the process of {role}")
        os.kill(pid, how)
        return pid

    @contextlib.contextmanager
    def frozen(self, role: str) -> Iterator[None]:
        """Stop the process of a role meanwhile. A failing test must not leave it so: only SIGKILL would end it."""
        pid = self.signal(role, signal.SIGSTOP)
        try:
            until(lambda: is_frozen(pid), f"{role} is stopped")
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def get(self, role: str, path: str = "/readyz") -> str:
        """Return a page of a role or of all, whatever its status; what went wrong if there is none."""
        port = self.first_port + (PORTS | {"all": len(ROLES)})[role]
        try:
            status, text = page_of(port, path, 5)
        except OSError as error:
            return f"no answer: {error}"
        return text if status == 200 else f"{status} {text}"

    def send(self, verdicts: int) -> None:
        self.site.send(make_batch(self.sent, verdicts, denied=True))
        self.sent += verdicts

    def wait_until_all_is_well(self) -> None:
        """Wait until every output has every record, and every role is ready."""
        self.site.flush()
        expected = {f"r1-{number}" for number in range(self.sent)}

        def all_are_there() -> bool | None:
            printed = set(_ID.findall(self.service.log.read_text()))
            return printed == ids_of(self.output) == ids_of(self.routed) == expected or None

        until(all_are_there, lambda: f"{self.sent} records: {self.pages()}", _PATIENCE_S)
        until(lambda: set(self.pages().values()) == {"ok\n"} or None, lambda: f"readiness: {self.pages()}", _PATIENCE_S)

    def crashed(self) -> list[str]:
        """Return the exit codes of roles that a signal ended."""
        return _KILLED.findall(self.service.log.read_text())

    def prometheus(self) -> Prometheus:
        """Start a Prometheus that scrapes the roles."""
        rules = self.site.folder / "rules.yml"
        text = re.sub(r"for: \d+m", "for: 1s", RULES.read_text())
        rules.write_text(text.replace(" > 300", f" > {_STALL_S}").replace("[30m]) > 4", "[30m]) > 1"))
        ports = [self.first_port + PORTS[role] for role in PORTS]
        return Prometheus(self.site.folder, {"weir-streams": [f"127.0.0.1:{port}" for port in ports]}, rules)

    def pages(self) -> dict[str, str]:
        return {role: self.get(role) for role in (*PORTS, "all")}


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    folder = tmp_path_factory.mktemp("roles")
    with contextlib.closing(MovableBroker(folder)) as broker:
        broker.start()
        made = Roles(broker, folder)
        try:
            until(lambda: set(made.pages().values()) == {"ok\n"} or None, "the start", _PATIENCE_S)
            yield made
        finally:
            made.site.end()


@pytest.fixture(scope="module")
def prometheus(roles: Roles) -> Iterator[Prometheus]:
    running = roles.prometheus()
    yield running
    running.stop()


def firing(prometheus: Prometheus) -> set[str]:
    return {one["metric"]["alertname"] for one in prometheus.ask('ALERTS{alertstate="firing"}')}


def test_every_role_tells_the_truth_about_frozen_and_moved_brokers(roles: Roles, prometheus: Prometheus) -> None:
    broker = roles.broker

    def alerts() -> set[str]:
        found = prometheus.ask('ALERTS{alertname="WeirNotReady", alertstate="firing"}')
        return {one["metric"]["check"] for one in found}

    roles.send(10)
    roles.wait_until_all_is_well()
    with broker.frozen():
        roles.send(10)
        until(lambda: all(page.startswith("503 ") for page in roles.pages().values()) or None, "503 of every role")
        assert all("Kafka has" in page for page in roles.pages().values())
        until(lambda: alerts() >= {"kafka", *PORTS} - {"enrich"} or None, "an alert for each role")
    roles.wait_until_all_is_well()
    until(lambda: not alerts() or None, "the end of the alerts")
    broker.move()
    roles.send(10)
    roles.wait_until_all_is_well()
    until(lambda: _LAG_OF_FILE.search(roles.get("file", "/metrics")), "no lag")
    assert 'kubeweir_streams_last_success_age_seconds{call="commit"}' in roles.get("file", "/metrics")


def test_roles_are_not_ready_throughout_a_long_freeze_and_find_the_brokers_elsewhere_after_it(roles: Roles) -> None:
    """Clients are replaced after five times WEIR_STALL, but not while Kafka answers no client."""
    broker = roles.broker
    roles.send(10)
    roles.wait_until_all_is_well()
    with broker.frozen():
        roles.send(10)
        until(lambda: all(page.startswith("503 ") for page in roles.pages().values()) or None, "503 of every role")
        thawed_at = time.monotonic() + 6 * _STALL_S
        while time.monotonic() < thawed_at:
            # On a busy machine, a page may take longer than the test waits for it.
            pages = roles.pages()
            assert not [role for role, page in pages.items() if not page.startswith(("503 ", "no answer"))], pages
            time.sleep(0.5)
        broker.move()
    roles.send(10)
    roles.wait_until_all_is_well()
    assert not roles.crashed()


def test_no_role_crashes_when_brokers_are_away_and_each_reads_topics_that_are_made_again(roles: Roles) -> None:
    broker = roles.broker
    roles.send(10)
    roles.wait_until_all_is_well()
    broker.stop()
    roles.send(10)
    until(lambda: all(page.startswith("503 ") for page in roles.pages().values()) or None, "503 of every role")
    assert all("last success: fetch " in roles.get(role) for role in ROLES)
    # A broker that has just started does not know yet which groups it coordinates.
    broker.start()
    roles.wait_until_all_is_well()
    assert not roles.crashed()
    admin = AdminClient({"bootstrap.servers": broker.address})
    for topic in ("verdicts.raw", "flows", "flows.denied"):
        make_again(admin, f"{roles.site.prefix}.{topic}", 4)
    # As many as were read before: a reader that goes on from its last offset would miss them.
    roles.site.forget_producer()
    roles.send(10)
    roles.send(10)
    roles.wait_until_all_is_well()
    assert not roles.crashed()


def test_every_further_fault_of_the_roles_fires_its_alert(roles: Roles, prometheus: Prometheus) -> None:
    """All at once: each alert is about another role, or another series."""
    roles.send(10)
    roles.wait_until_all_is_well()
    # Prometheus looks for its targets only some seconds after its start.
    until(lambda: len(prometheus.ask("up == 1")) == len(PORTS), "a scrape of each role", _PATIENCE_S)
    with roles.frozen("stdout"):
        nowhere = f"http://127.0.0.1:{free_ports(1)}/v1/logs"
        roles.route(f"{{name: nowhere, outputs: [{{otlp: {{endpoint: '{nowhere}'}}}}]}}")
        roles.site.send(b"no batch")
        roles.sent += 5  # verdicts that no batch has
        roles.send(10)
        roles.site.flush()
        starts = f'process_start_time_seconds{{instance="127.0.0.1:{roles.first_port + PORTS["file"]}"}}'
        for number in (1, 2):
            roles.signal("file", signal.SIGKILL)
            scraped = f"changes({starts}[10m]) >= {number}"
            until(partial(prometheus.ask, scraped), "a scrape of the next process", _PATIENCE_S)
        lasting = {"WeirDown", "WeirNotReady", "WeirCallsFail", "WeirGroupLate"}
        expected = lasting | {"WeirSinkFailing", "WeirRestarting", "WeirDeadLetters", "WeirVerdictsMissing"}
        until(lambda: firing(prometheus) >= expected or None, lambda: f"{expected - firing(prometheus)}", _PATIENCE_S)
    roles.route()
    until(lambda: not firing(prometheus) & lasting or None, lambda: f"the end of {firing(prometheus)}", _PATIENCE_S)
