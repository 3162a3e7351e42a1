"""The log shippers of deploy/shippers deliver every record, although they are killed and destinations are away."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Set
from pathlib import Path

import pytest
from ports import free_port

from enrich.wire.batch import EndpointRef
from tests.kafka.batches import make_batch
from tests.kafka.elasticsearch import Elasticsearch
from tests.kafka.receiver import Receiver
from tests.kafka.shippers import Shipper, collector, collector_binary, connect, rsyslog, rsyslog_elasticsearch
from tests.kafka.site import Site, until

pytestmark = pytest.mark.kafka

AWAY_S = 20
PODS = {str(number): EndpointRef("shop", f"web-{number}", f"uid-{number}") for number in range(7, 11)}
_ROUTES = """\
version: 1
routes:
  - name: collector
    match: {verdict: [deny, audit]}
    outputs: [{otlp: {endpoint: "http://LISTEN/v1/logs"}}]
"""


def send(site: Site, first: int, batches: int) -> None:
    """Yield batches of 50 denied verdicts, of several pods in turn."""
    for number in range(first, first + batches):
        site.send(make_batch(number * 50, 50, {"endpoints": PODS}, denied=True, endpoint=7 + number % len(PODS)))
    site.flush()


def is_complete(shipper: Shipper, sent: Set[str]) -> bool:
    return len(sent - {flow["id"] for flow in shipper.received()}) <= shipper.may_lose


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    """The destination of the Collectors."""
    made = [Receiver(), Receiver()]
    yield made
    for receiver in made:
        receiver.close()


@pytest.fixture
def shippers(site: Site, receivers: list[Receiver], elasticsearch: Elasticsearch) -> Iterator[list[Shipper]]:
    """All shippers that can run on this machine, not started."""
    listen = f"127.0.0.1:{free_port()}"
    (site.folder / "routes.yaml").write_text(_ROUTES.replace("LISTEN", listen))
    env = {"KAFKA": site.broker, "TOPIC": f"{site.prefix}.flows.denied", "LISTEN": listen}

    def of(name: str) -> tuple[Path, dict[str, str]]:
        return site.folder, {**env, "GROUP": f"{site.prefix}.{name}"}

    made = [
        rsyslog(*of("rsyslog")),
        rsyslog_elasticsearch(*of("rsyslog-es"), elasticsearch, f"kubeweir-{site.prefix}"),
        connect(*of("connect")),
    ]
    binary = collector_binary()
    if binary is not None:
        made.append(collector(binary, "otelcol-kafka", *of("otelcol"), receivers[0]))
        made.append(collector(binary, "otelcol-otlp", *of("otlp"), receivers[1]))
    yield made
    for shipper in made:
        shipper.kill()


@pytest.mark.timeout(2700)  # with the build of the Collector, beside that of Kubernetes
def test_what_was_sent_is_there_after_kill_9_and_twenty_seconds_without_a_far_end(
    site: Site, receivers: list[Receiver], shippers: list[Shipper]
) -> None:
    site.start("enrich", "routes", WEIR_ROUTES=str(site.folder / "routes.yaml")).wait_for("partitions assigned")
    send(site, 0, 12)
    for shipper in shippers:
        shipper.start()
    for shipper in shippers:
        until(lambda one=shipper: one.check() or one.received() or None, f"records of {shipper.name}")  # type: ignore[misc]
        shipper.kill()
    for receiver in receivers:
        receiver.away = True
    for shipper in shippers:
        shipper.start()
    send(site, 12, 6)
    # The outage is what this test is about: half of it before another kill, with records under way.
    threading.Event().wait(AWAY_S / 2)
    for shipper in shippers:
        shipper.kill()
        shipper.start()
    send(site, 18, 2)
    threading.Event().wait(AWAY_S / 2)
    for receiver in receivers:
        receiver.away = False
    sent = {flow["id"]: flow for flow in site.read_flows(1000, "flows.denied")}
    assert sent.keys() == {f"r1-{number}" for number in range(1000)}
    for shipper in shippers:
        until(
            lambda one=shipper: one.check() or is_complete(one, sent.keys()) or None,  # type: ignore[misc]
            f"all records of {shipper.name}",
        )
        for flow in shipper.received():
            assert flow == sent[flow["id"]], f"{shipper.name}: a repeat that is another record"
    if len(shippers) < 5:
        pytest.skip(
            "needs Go, to build the Collector (deploy/local/collector): the other shippers were tested, it was not"
        )
