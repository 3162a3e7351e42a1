"""Three brokers of which two must have each record: they restart, one is gone for good, and partitions move.

The probe's publishers and the roles go on meanwhile: nothing is lost, nothing is stuck, and readiness is true.
"""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from ports import free_ports

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.wire.address_interval import encode_interval
from enrich.wire.topics import topics
from streams.main import ROLES
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.brokers import NUMBERS, BrokerCluster
from tests.kafka.exporter import Exporter
from tests.kafka.health_truth import HealthTruth
from tests.kafka.site import Site, ids_of
from tests.kafka.site import until as wait_for
from tests.kafka.test_history import make_interval
from tests.pages import page_of
from tests.probe.export.spooling import append
from tests.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

STALL_S, ALLOWED_S = 8.0, 24.0
VERDICTS = 10
EVERY_S = 0.02
_PATIENCE_S = 240.0
"""Brokers and clients take half a minute to notice that a broker is gone, and several times that on a busy machine."""


class Load:
    """A probe's publishers that are given a batch every 20 ms, and the roles that write its records to files."""

    def __init__(self, brokers: BrokerCluster, folder: Path) -> None:
        write_manifests(folder / "manifests")
        self.site = Site(brokers.address, f"t{secrets.token_hex(4)}", folder)
        self.first_port = free_ports(len(ROLES) + 1)
        self.routed, self.flows = folder / "routed.log", folder / "flows.log"
        routes = {"name": "all", "match": {}, "outputs": [{"file": {"path": str(self.routed), "max_bytes": 1 << 30}}]}
        (folder / "routes.yaml").write_text(orjson.dumps({"version": 1, "routes": [routes]}).decode())
        settings = {
            "WEIR_STALL": str(STALL_S), "WEIR_FILE_PATH": str(self.flows), "WEIR_FILE_MAX_BYTES": str(1 << 30),
            "WEIR_ROUTES": str(folder / "routes.yaml"), "WEIR_METRICS": f"127.0.0.1:{self.first_port}",
        }  # fmt: skip
        self.service = self.site.start("enrich", "file", "routes", **settings)
        connection = load(KafkaSettings, {"WEIR_KAFKA": brokers.address}).connection()
        names = topics(self.site.prefix, 4)
        self.probe, self.given = Exporter(names, connection, folder, STALL_S), 0
        self.truths = {name: HealthTruth(ALLOWED_S) for name in ("batches", "enrich", "file", "routes")}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._feed, self._watch)]
        for thread in self._threads:
            thread.start()

    def _feed(self) -> None:
        while not self._stop.wait(EVERY_S):
            append(self.probe.spool, make_batch(self.given * VERDICTS, VERDICTS, denied=True))
            interval = make_interval(f"pod-{self.given % 100}", "10.0.0.99", time.time_ns())
            self.probe.intervals.publish({interval.key: encode_interval(interval)})
            self.given += 1

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            sent = self.probe.batches.acked_batches
            enriched, routed = (lines_in(path) for path in (self.flows, self.routed))
            # What one role has written proves that the enricher has made it.
            made = max(enriched, routed)
            progress = {
                "batches": (self.given, sent), "enrich": (sent, made), "file": (made, enriched),
                "routes": (made, routed),
            }  # fmt: skip
            for name, (given, done) in progress.items():
                ready = self.probe.batches.problem is None if name == "batches" else self._is_ready(name)
                self.truths[name].look(time.monotonic(), ready=ready, given=given, done=done, name=name)

    def _get(self, role: str, path: str = "/readyz") -> tuple[int, str]:
        """Return a page of a role; a role that is restarted keeps its port. Raises OSError if it does not answer."""
        return page_of(self.first_port + ROLES.index(role), path, 20)

    def _is_ready(self, role: str) -> bool:
        try:
            return self._get(role)[0] == 200
        except OSError:
            return False

    def goes_on(self) -> None:
        """Wait until what is given from now on has come through everything."""
        number = self.given * VERDICTS
        for path in (self.flows, self.routed):
            until(lambda path=path: lines_in(path) >= number, _PATIENCE_S)  # type: ignore[misc]  # mypy cannot type a default

    def account(self) -> None:
        """End the load; check that every verdict is in each place, and that all are well and their health was true."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        expected = {f"r1-{number}" for number in range(self.given * VERDICTS)}
        for path in (self.flows, self.routed):
            self._wait_for(path, expected)
        assert {flow["id"] for flow in self.site.read_flows(len(expected))} == expected
        assert not self._dead_letters()
        assert not [line for line in self.service.lines() if line["event"].startswith("a role ended")]
        assert self.probe.spool.lost() == {"spool_full": 0, "refused": 0}
        until(lambda: self.probe.spool.unacked_batches == 0)
        assert self.probe.problems() == (None, None)
        for role in ("enrich", "file", "routes"):
            until(lambda role=role: self._is_ready(role))  # type: ignore[misc]  # mypy cannot type a default
        assert [one for truth in self.truths.values() for one in truth.examples] == []

    def _wait_for(self, path: Path, expected: set[str]) -> None:
        """Wait until a file has these verdicts. A failure says which it has not, and where they are."""
        found: set[str] = set()

        def has_all() -> bool:
            found.update(ids_of(path))
            return found == expected

        def state() -> str:
            missing, spool = sorted(expected - found), self.probe.spool
            return (
                f"{len(expected)} verdicts in {path.name}: {len(missing)} missing ({missing[:5]}), "
                f"{len(found - expected)} too many, {spool.unacked_batches} batches in the spool, "
                f"{self.probe.batches.acked_batches} of {self.given} acknowledged, {self.probe.problems()}"
            )

        wait_for(has_all, state, _PATIENCE_S)

    def _dead_letters(self) -> float:
        page = self._get("enrich", "/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in page if line.startswith("kubeweir_streams_dead_letters_total{"))

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.probe.stop()
        self.site.end()


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerCluster]:
    made = BrokerCluster(tmp_path_factory.mktemp("brokers"))
    made.start(*NUMBERS)
    yield made
    made.close()


@pytest.fixture
def under_load(brokers: BrokerCluster, tmp_path: Path) -> Iterator[Load]:
    brokers.wait_until_complete()
    made = Load(brokers, tmp_path)
    made.goes_on()
    yield made
    made.close()


def test_brokers_restarted_one_after_the_other_lose_nothing(brokers: BrokerCluster, under_load: Load) -> None:
    for number, how in zip(NUMBERS, (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM), strict=True):
        brokers.end(number, how)
        under_load.goes_on()
        brokers.start(number)
        brokers.wait_until_complete()
    under_load.goes_on()
    under_load.account()


def test_partitions_leave_a_broker_that_is_then_gone_for_good(brokers: BrokerCluster, under_load: Load) -> None:
    everywhere = brokers.wait_until_complete()
    topics_of = {topic: list(numbers) for topic, numbers in everywhere.items()}

    def are_at(numbers: set[int]) -> bool:
        # A role may have made another topic since.
        found = brokers.partitions() or {}
        return all(set(found.get(topic, {}).get(one, ())) == numbers for topic in topics_of for one in topics_of[topic])

    for numbers in ([1, 2], [2, 3]):
        brokers.move(topics_of, numbers)
        until(lambda numbers=numbers: are_at(set(numbers)), _PATIENCE_S)  # type: ignore[misc]  # mypy cannot type a default
        under_load.goes_on()
    brokers.end(1)
    under_load.goes_on()
    brokers.wait_until_complete()
    under_load.account()
