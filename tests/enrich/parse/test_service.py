"""What is read of a Service."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.model import Service
from enrich.parse.cursor import InvalidObjectError
from enrich.parse.objects import parse


def service(*ports: dict[str, Any]) -> Service:
    found = parse({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": list(ports)}})
    assert isinstance(found, Service)
    return found


def test_node_ports_have_the_protocol_of_their_port_and_a_port_may_have_none() -> None:
    found = service(
        {"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 90},
        {"port": 91, "nodePort": 0},
    )  # fmt: skip
    assert found.ports == ((6, 80), (17, 53), (6, 90), (6, 91))
    assert found.node_ports == ((6, 30080), (17, 30053))


@pytest.mark.parametrize("port", [-1, 65536, "30080", 1.5, True])
def test_a_node_port_that_is_not_a_port_is_refused(port: Any) -> None:
    with pytest.raises(InvalidObjectError, match="nodePort"):
        service({"port": 80, "nodePort": port})
