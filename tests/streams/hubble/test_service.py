"""What the server answers while Kafka is away, and to methods that it does not have; no Kafka."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from streams.hubble.answering import Topics
from streams.hubble.census import Census
from streams.hubble.messages import message
from streams.hubble.server import start_server
from streams.hubble.service import About, Observer
from streams.metrics.hubble import HubbleMetrics
from tests.kafka.hubble_client import HubbleClient

PROBLEM = "the broker 127.0.0.1:1 refuses connections"


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="module")
def port(registry: CollectorRegistry) -> Iterator[int]:
    """The port of a server whose Kafka is away."""
    topics = Topics({"bootstrap.servers": "127.0.0.1:1"}, "flows", "denied", "status", "")
    observer = Observer(
        topics, Census(), HubbleMetrics(registry), About("1.0", ("app",), 2, "127.0.0.1:0", is_encrypted=False),
        lambda: PROBLEM, threading.Event(),
    )  # fmt: skip
    server, found = start_server("127.0.0.1:0", observer.handlers(), 2, None)
    yield found
    server.stop(0)


@pytest.fixture
def client(port: int) -> Iterator[HubbleClient]:
    made = HubbleClient(port)
    yield made
    made.close()


def error_of(call: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


def test_while_kafka_is_away_each_request_says_why(client: HubbleClient, registry: CollectorRegistry) -> None:
    code, text = error_of(lambda: list(client.flows(number=1)))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "Kafka cannot be reached at 127.0.0.1:1" in text
    assert PROBLEM in text
    for method in ("GetNodes", "GetNamespaces", "ServerStatus"):
        assert error_of(lambda method=method: client.ask(method)) == (grpc.StatusCode.UNAVAILABLE, PROBLEM)
    assert registry.get_sample_value("kubeweir_streams_hubble_refused_total", {"code": "unavailable"}) == 4
    assert registry.get_sample_value("kubeweir_streams_hubble_streams") == 0, "its place is free again"
    code, text = error_of(lambda: list(client.flows(whitelist=[message("FlowFilter")(dns_query=["a"])])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "dns_query" in text, "a filter is refused before Kafka is asked"


def test_health_and_methods_that_it_does_not_have(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"\x0a\x16hubble.server.Observer", timeout=120) == b"\x08\x02", "not serving"
        code, _ = error_of(lambda: check(b"\x0a\x01x", timeout=120))
        assert code is grpc.StatusCode.NOT_FOUND
        for method in ("GetAgentEvents", "GetDebugEvents"):
            code, _ = error_of(lambda method=method: list(channel.unary_stream(f"/observer.Observer/{method}")(b"")))
            assert code is grpc.StatusCode.UNIMPLEMENTED
        flows = channel.unary_stream("/observer.Observer/GetFlows")
        code, _ = error_of(lambda: list(flows(b"\xff\xff", timeout=120)))
        assert code is not grpc.StatusCode.OK, "what is no request is refused"
