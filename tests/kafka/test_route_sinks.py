"""The sinks of the routes file as the process that they are, on a real Apache Kafka, with a real destination each.

The OTLP receiver is an HTTP server of ours that speaks the protocol's own messages.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import orjson
import pytest

from enrich.wire.batch import EndpointRef
from tests.kafka.batches import make_batch
from tests.kafka.receiver import Receiver
from tests.kafka.site import Site, ids_of, until

pytestmark = pytest.mark.kafka

_OUTAGE_S = 20.0
"""How long the destination is away, really: longer than any wait between two tries."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def write(site: Site, *routes: dict[str, object]) -> str:
    path = site.folder / "routes" / "routes.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps({"version": 1, "routes": routes}))
    return str(path)


def send(site: Site, first: int, batches: int, size: int = 100) -> None:
    """Every second batch is denied."""
    for number in range(first, first + batches):
        site.send(make_batch(number * size, size, denied=number % 2 == 1))
    site.flush()


def test_a_sink_that_cannot_write_leaves_its_group_working(site: Site, receiver: Receiver) -> None:
    """A member that does not poll keeps a rebalance from ending, and the whole group waits for it."""

    def logs_to(endpoint: str) -> dict[str, object]:
        return {"name": "logs", "outputs": [{"otlp": {"endpoint": endpoint, "timeout": "1s"}}]}

    path = write(site, logs_to("http://127.0.0.1:1/v1/logs"))
    site.start_enrich()
    stuck = site.start("routes", "--alone", WEIR_ROUTES=path)
    rings = [f"ring{number}" for number in range(16)]
    for ring in rings:
        site.send(make_batch(0, 5, {"ring": ring, "endpoints": {"7": EndpointRef("shop", ring, f"uid-{ring}")}}))
    site.flush()
    stuck.wait_for("the destination cannot take records; retrying", sink="logs.otlp")
    other = site.folder / "other.yaml"
    other.write_bytes(orjson.dumps({"version": 1, "routes": [logs_to(receiver.url)]}))
    helping = site.start("routes", "--alone", WEIR_ROUTES=str(other))
    until(lambda: receiver.logs or None, "records of the partitions that the second member got")
    # The first one goes: the second gets the rest, and nothing was committed that was not written.
    assert stuck.stop() == 0
    expected = {f"{ring}-{number}" for ring in rings for number in range(5)}
    until(lambda: {uid(log) for log in receiver.logs} == expected or None, "all records")
    assert helping.stop() == 0


def test_a_removed_output_leaves_its_offsets_to_nobody(site: Site) -> None:
    first, second = site.folder / "first.log", site.folder / "second.log"
    one = {"name": "a", "file": {"path": str(first)}}
    two = {"name": "b", "file": {"path": str(second)}}
    path = write(site, {"name": "files", "outputs": [one]})
    site.start_enrich()
    sinks = site.start("routes", "--alone", WEIR_ROUTES=path)
    send(site, 0, 1)
    until(lambda: len(ids_of(first)) == 100 or None, "the first file")
    write(site, {"name": "files", "outputs": [two]})
    until(lambda: (second.exists() and len(ids_of(second)) == 100) or None, "all records in the second file, too")
    assert sinks.stop() == 0
    command = [sys.executable, "-m", "streams.cli.main", "routes", "groups", path]
    command += ["--topic-prefix", site.prefix, "--kafka", site.broker]
    env = {**os.environ, "WEIR_CLUSTER": "c1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    left, used = f"{site.prefix}.c1.route.files.a", f"{site.prefix}.c1.route.files.b"
    assert done.stdout == f"{left}: left over: no output of the file has it\n{used}: in use\n"
    assert done.returncode == 1
    done = subprocess.run([*command, "--delete"], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{left}: deleted\n{used}: in use\n", 0)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{used}: in use\n", 0)


def test_files_and_logs_have_what_their_routes_take_through_kill_9_and_an_outage(
    site: Site, receiver: Receiver
) -> None:
    every, denied = site.folder / "out" / "all.log", site.folder / "out" / "denied.log"
    path = write(
        site,
        {"name": "all", "outputs": [{"file": {"path": str(every), "max_bytes": 300_000, "keep": 500}}]},
        {"name": "denied", "match": {"verdict": "deny"}, "outputs": [
            {"file": {"path": str(denied)}}, {"otlp": {"endpoint": receiver.url, "timeout": "1s"}},
        ]},
    )  # fmt: skip
    enricher = site.start_enrich(WEIR_ROUTES=path)
    sinks = site.start("routes", "--alone", WEIR_ROUTES=path)
    send(site, 0, 20)
    odd = {f"r1-{number}" for number in range(2000) if number // 100 % 2}
    until(lambda: ids_of(denied) == odd or None, "the denied in the file")
    until(lambda: {uid(log) for log in receiver.logs} == odd or None, "the denied in the receiver")
    receiver.away, away_since = True, time.monotonic()
    send(site, 20, 20)
    sinks.wait_for("the destination cannot take records; retrying", sink="denied.otlp")
    everything = {f"r1-{number}" for number in range(4000)}
    until(lambda: ids_of(every) == everything or None, "all in the file, whatever the receiver does")
    status, text = sinks.get("/readyz", "routes")
    assert (status, "denied.otlp" in text, "503" in text) == (503, True, True)
    sinks.process.send_signal(signal.SIGKILL)
    sinks.process.wait()
    sinks = site.start("routes", "--alone", WEIR_ROUTES=path)
    sinks.wait_for("the destination cannot take records; retrying", sink="denied.otlp")
    time.sleep(max(0.0, away_since + _OUTAGE_S - time.monotonic()))
    receiver.away = False
    odd = {f"r1-{number}" for number in range(4000) if number // 100 % 2}
    until(lambda: {uid(log) for log in receiver.logs} == odd or None, "the denied in the receiver")
    until(lambda: ids_of(denied) == odd or None, "the denied in the file")
    until(lambda: ids_of(every) == everything or None, "still all in the file, whatever was repeated")
    lag = 'kubeweir_streams_sink_lag_records{sink="denied.otlp"} 0.0'
    until(lambda: lag in sinks.get("/metrics", "routes")[1] or None, "no lag")
    assert 'kubeweir_streams_sink_failures_total{sink="denied.otlp"}' in sinks.get("/metrics", "routes")[1]
    assert sinks.stop() == 0
    assert enricher.stop() == 0


def test_kill_9_when_the_receiver_has_records_and_has_not_said_so_loses_none_and_repeats_the_same(
    site: Site, receiver: Receiver
) -> None:
    path = write(site, {"name": "all", "outputs": [{"otlp": {"endpoint": receiver.url, "timeout": "60s"}}]})
    enricher = site.start_enrich(WEIR_ROUTES=path)
    sinks = site.start("routes", "--alone", WEIR_ROUTES=path)
    send(site, 0, 10)
    until(lambda: {uid(log) for log in receiver.logs} == {f"r1-{number}" for number in range(1000)} or None, "a half")
    receiver.mute = True
    before = len(receiver.logs)
    send(site, 10, 10)
    until(lambda: len(receiver.logs) > before or None, "records that are there and not acknowledged")
    sinks.process.send_signal(signal.SIGKILL)
    sinks.process.wait()
    receiver.mute = False
    sinks = site.start("routes", "--alone", WEIR_ROUTES=path)
    until(lambda: {uid(log) for log in receiver.logs} == {f"r1-{number}" for number in range(2000)} or None, "all")
    bodies = {(uid(log), log.body.string_value) for log in receiver.logs}
    assert len(receiver.logs) > len(bodies) == 2000, "some came twice, and were the same"
    assert sinks.stop() == 0
    assert enricher.stop() == 0


def uid(log: object) -> str:
    return str(attributes(log)["log.record.uid"])


def attributes(log: object) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in log.attributes}  # type: ignore[attr-defined]


def test_what_the_receiver_refuses_for_good_is_a_dead_letter_and_the_rest_arrives(
    site: Site, receiver: Receiver
) -> None:
    receiver.refuses = lambda log: uid(log) == "r1-3"
    receiver.rejects = lambda log: uid(log) in ("r1-7", "r1-8")
    path = write(site, {"name": "all", "outputs": [{"otlp": {"endpoint": receiver.url}}]})
    service = site.start(WEIR_ROUTES=path)
    service.wait_for("partitions assigned")
    send(site, 0, 1, 20)
    rest = {f"r1-{number}" for number in range(20)} - {"r1-3", "r1-7", "r1-8"}
    until(lambda: {uid(log) for log in receiver.logs} == rest or None, "the rest")
    assert len(receiver.logs) == len(rest), "none came twice"
    (dead,) = site.read("dead", lambda found: len(found) >= 1)
    assert orjson.loads(dead.value() or b"")["id"] == "r1-3"
    headers = dict(dead.headers() or [])
    assert (headers["reason"], headers["topic"]) == (b"sink_refused", f"{site.prefix}.flows".encode())
    # What a partial success rejects is counted: the receiver does not say which records those are.
    refused = 'kubeweir_streams_sink_refused_total{sink="all.otlp"} 3.0'
    until(lambda: refused in service.get("/metrics", "routes")[1] or None, "three refused records")
    log = receiver.logs[0]
    shown = attributes(log)
    assert (shown["source.address"], shown["k8s.pod.name"], shown["destination.port"]) == ("10.0.0.10", "web-0", 8080)
    assert (log.event_name, log.severity_text) == ("kubeweir.verdict", "INFO")
    flow = orjson.loads(log.body.string_value)
    assert flow["id"] == shown["log.record.uid"]
    resource = receiver.requests[0].resource_logs[0].resource.attributes
    assert {one.key: one.value.string_value for one in resource}["k8s.node.name"] == "n1"
    assert service.stop() == 0


def test_a_changed_file_starts_and_stops_sinks_and_a_bad_one_changes_nothing(site: Site) -> None:
    one, two = site.folder / "one.log", site.folder / "two.log"
    path = write(site, {"name": "one", "outputs": [{"file": {"path": str(one)}}]})
    site.start_enrich()
    sinks = site.start("routes", "--alone", WEIR_ROUTES=path)
    send(site, 0, 2)
    until(lambda: len(ids_of(one)) == 200 or None, "the records")
    write(site, {"name": "one", "outputs": [{"file": {"path": "/proc/no/such.log"}}]})
    sinks.wait_for("the routes file is refused; the last good one stays in force")
    send(site, 2, 2)
    until(lambda: len(ids_of(one)) == 400 or None, "the records of the last good file")
    write(site, {"name": "two", "match": {"verdict": "deny"}, "outputs": [{"file": {"path": str(two)}}]})
    sinks.wait_for("sink stopped", sink="one.file")
    send(site, 4, 2)
    until(lambda: len(ids_of(two)) == 300 or None, "the denied")
    assert len(ids_of(one)) == 400
    assert sinks.stop() == 0
