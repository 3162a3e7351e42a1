"""`weir-probe` on real packets and a real Kafka: every packet is logged or counted, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enrich.wire.batch import Verdict
from tests.e2e.node import CLOSED, OPEN, Node, Rows
from tests.kafka.site import until

pytestmark = pytest.mark.e2e

FLOWS = 5
"""Denied flows that go on all the time."""


class Traffic:
    """A client that sends to a closed port by a few flows, and to a new open port each time, until it is stopped.

    ``denied`` and ``allowed`` are the independent count: what was handed to the kernel.
    """

    def __init__(self, node: Node) -> None:
        self.allowed = 0
        self.denied = 0
        self._stop = threading.Event()
        self._server = node.server.address(4)
        self._sender = node.socket(30_000)
        self._deniers = [node.socket() for _ in range(FLOWS)]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            self._sender.sendto(b"x", (self._server, OPEN + 1 + self.allowed))
            self.allowed += 1
            self._deniers[self.denied % FLOWS].sendto(b"x", (self._server, CLOSED))
            self.denied += 1

    def wait_for_more(self, packets: int) -> None:
        expected = self.denied + packets
        until(lambda: self.denied >= expected or None, "traffic")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        for one in (self._sender, *self._deniers):
            one.close()


_Start = Callable[[], Traffic]


@pytest.fixture
def start_traffic(node: Node) -> Iterator[_Start]:
    """Start traffic that ends with the test, if the test has not stopped it before."""
    with contextlib.ExitStack() as stack:

        def start() -> Traffic:
            made = Traffic(node)
            stack.callback(made.stop)
            return made

        yield start


def check(rows: Rows, allowed: int, denied: int) -> None:
    """Each allowed connection once at each end, each denied packet counted once."""
    expected = Counter(range(OPEN + 1, OPEN + 1 + allowed))
    for pod in ("client", "server"):
        found = rows.of(pod, Verdict.ALLOW)
        assert Counter(found["destination_port"][found["destination_port"] > OPEN].tolist()) == expected
    assert int(rows.of("server", Verdict.DENY)["count"].sum()) == denied


@pytest.mark.timeout(900)
def test_kill_9_loses_no_packet_and_opens_nothing(node: Node, start_traffic: _Start) -> None:
    probe = node.begin()
    with node.socket(CLOSED, server=True) as closed, node.socket(OPEN, server=True) as opened:
        closed.settimeout(0.1)
        traffic = start_traffic()
        dice = random.Random(1)  # noqa: S311 - no secret
        for life in range(6):
            if life % 2:
                # At any moment of its start.
                threading.Event().wait(dice.uniform(0.05, 2.0))
            else:
                probe.wait_for("started")
                traffic.wait_for_more(dice.randrange(20, 400))
            probe.kill()
            with node.socket() as other:
                other.sendto(b"still allowed", (node.server.address(4), OPEN))
                assert opened.recv(100) == b"still allowed"
            probe = node.start()
        probe.wait_until_enforced()
        traffic.stop()
        with pytest.raises(TimeoutError):
            closed.recv(100)
    probe.wait_until_sent()
    assert probe.stop() == 0, probe.log.read_text()
    assert probe.lines("stopped")[0]["flushed"] is True
    batches = node.batches()
    rows = Rows(batches)
    assert len(rows.rings) == 1
    assert rows.numbers == list(range(len(rows.numbers)))
    check(rows, traffic.allowed, traffic.denied)
    assert traffic.denied > 500
    assert all(totals == (0, 0) for batch in batches for totals in batch.header.lost.values())


@pytest.mark.timeout(900)
def test_while_kafka_is_away_the_spool_holds_and_is_sent_in_order(node: Node, start_traffic: _Start) -> None:
    probe = node.begin(WEIR_STALL="5")
    until(lambda: probe.get("/readyz")[0] == 200 or None, "ready")
    traffic = start_traffic()
    until(lambda: probe.metric("kubeweir_probe_acked_batches_total") > 3 or None, "batches on Kafka")
    node.broker.stop()
    until(lambda: probe.get("/readyz")[0] == 503 or None, "not ready without Kafka")
    assert "kafka: " in probe.get("/readyz")[1]
    assert probe.wait_for("Kafka cannot be reached")
    traffic.wait_for_more(1000)
    # A restart meanwhile goes on with the same spool; stopping takes no longer than it says.
    assert probe.stop() == 0
    assert probe.lines("stopped")[0]["flushed"] is False
    probe = node.start()
    probe.wait_until_enforced()
    until(lambda: probe.metric("kubeweir_probe_spool_batches") > 5 or None, "batches in the spool")
    node.broker.start()
    until(lambda: probe.get("/readyz")[0] == 200 or None, "ready again")
    traffic.stop()
    probe.wait_until_sent()
    assert probe.stop() == 0
    assert probe.lines("stopped")[0]["flushed"] is True
    batches = node.batches()
    rows = Rows(batches)
    assert rows.numbers == list(range(len(rows.numbers)))
    check(rows, traffic.allowed, traffic.denied)
    first_numbers = [batch.header.first for batch in batches]
    assert first_numbers == sorted(first_numbers)


@pytest.mark.timeout(900)
def test_a_small_spool_keeps_the_denies_and_counts_each_allow_that_it_thins(node: Node) -> None:
    node.broker.stop()
    probe = node.begin(WEIR_SPOOL_BYTES=str(4 << 20))
    connections, denied = 40_000, 3000
    with node.socket(31_000) as allowed, node.socket() as refused:
        for number in range(connections):
            allowed.sendto(b"x", (node.server.address(4), OPEN + 1 + number))
            if number < denied:
                refused.sendto(b"x", (node.server.address(4), CLOSED))
            if number % 5000 == 0:
                until(lambda: probe.metric("kubeweir_probe_ring_unread_verdicts") < 10_000 or None, "an empty ring")
    until(lambda: probe.metric('kubeweir_probe_lost_verdicts_total{reason="spool_full"}') > 0 or None, "a full spool")
    assert probe.metric("kubeweir_probe_spool_bytes") <= 4 << 20
    # A kill between: what was taken out is known all the same.
    probe.kill()
    node.broker.start()
    probe = node.start(WEIR_SPOOL_BYTES=str(4 << 20))
    probe.wait_until_enforced()
    until(lambda: probe.metric("kubeweir_probe_spool_batches") == 0 or None, "an empty spool")
    # The next batch reports what the spool lost.
    with node.socket() as refused:
        refused.sendto(b"x", (node.server.address(4), CLOSED))
        denied += 1
    assert probe.stop() == 0
    batches = node.batches()
    rows = Rows(batches)
    assert int(rows.of("server", Verdict.DENY)["count"].sum()) == denied
    last = batches[-1].header
    missing = last.first + last.verdicts - len(rows.numbers)
    assert missing > 0
    assert last.lost == {
        "ring_full": (0, 0),
        "deny_windows_full": (0, 0),
        "spool_full": last.lost["spool_full"],
        "refused": (0, 0),
    }
    assert last.lost["spool_full"][1] == missing
    # The two flows that the server denied were allowed at the client.
    assert sum(len(rows.of(pod, Verdict.ALLOW)) for pod in ("client", "server")) + missing == 2 * connections + 2


@pytest.mark.timeout(900)
def test_a_kafka_that_answers_nothing_does_not_keep_the_probe_from_stopping(node: Node, start_traffic: _Start) -> None:
    probe = node.begin()
    traffic = start_traffic()
    until(lambda: probe.metric("kubeweir_probe_acked_batches_total") > 3 or None, "batches on Kafka")
    with node.broker.frozen():
        traffic.wait_for_more(500)
        assert probe.stop() == 0, probe.log.read_text()
        assert "Traceback" not in probe.log.read_text()
        assert probe.lines("stopped")[0]["flushed"] is False
    probe = node.start()
    probe.wait_until_enforced()
    traffic.stop()
    probe.wait_until_sent()
    assert probe.stop() == 0
    rows = Rows(node.batches())
    assert rows.numbers == list(range(len(rows.numbers)))
    check(rows, traffic.allowed, traffic.denied)


def test_an_authority_that_cannot_be_read_keeps_no_policy_from_the_kernel(node: Node, tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_text("no certificate")
    probe = node.begin(WEIR_KAFKA_PROTOCOL="ssl", WEIR_KAFKA_CA=str(authority))
    with node.socket(CLOSED, server=True) as closed, node.socket() as client:
        closed.settimeout(0.2)
        client.sendto(b"x", (node.server.address(4), CLOSED))
        with pytest.raises(TimeoutError):
            closed.recv(1)
    status, answer = probe.get("/readyz")
    assert status == 503
    assert "ssl.ca.location failed" in answer
    assert probe.stop() == 0, probe.log.read_text()
