"""The real services at work, for what others see of them: a Kafka, a node with its probe, and workers with routes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.node import CLOSED, OPEN, Broker, Node, Probe
from tests.kafka.site import Service, Site

_ROUTES = """\
version: 1
routes:
  - name: denied
    match: {verdict: deny}
    outputs: [{kafka: {topic: PREFIX.denied}}, {file: {path: FILE}}]
"""


@dataclass
class Running:
    """The running services, and a client that keeps them busy."""

    node: Node
    site: Site
    service: Service
    probe: Probe
    sender: socket.socket
    sent: int = 0

    def send(self) -> None:
        """A packet that is let in, by a connection of its own, and one that is not."""
        server = self.node.server.address(4)
        self.sender.sendto(b"x", (server, OPEN + self.sent % 1000))
        self.sender.sendto(b"x", (server, CLOSED))
        self.sent += 1


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start everything; at the end, both services must stop without an error."""
    folder = tmp_path_factory.mktemp("services")
    (folder / "node").mkdir()
    broker = Broker(folder)
    node = Node(broker, folder / "node")
    site = Site(broker.address, node.topic_prefix, folder / "node")
    try:
        broker.start()
        routes = folder / "routes.yaml"
        routes.write_text(_ROUTES.replace("PREFIX", site.prefix).replace("FILE", str(folder / "denied.log")))
        # One after the other: each takes all of a core to start.
        probe = node.begin(WEIR_PARTITIONS="4")
        service = site.start(
            "enrich", "routes", "alerts", "journal", WEIR_ROUTES=str(routes), WEIR_VERDICTS_BY="workload"
        )
        with node.socket() as sender:
            yield Running(node, site, service, probe, sender)
        assert service.stop() == 0
        assert probe.stop() == 0
    finally:
        site.end()
        node.close()
        broker.stop()
