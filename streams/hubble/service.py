"""The gRPC services: `observer.Observer`, and the health check that `hubble status` asks first. Imports grpc."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import structlog

from streams.hubble import words
from streams.hubble.answering import FlowsCall, TooMuchError, Topics
from streams.hubble.bounded_reader import ClientGoneError
from streams.hubble.census import Census
from streams.hubble.messages import message
from streams.hubble.request import FlowsRequest, read_request
from streams.kafka.connection import ReadError
from streams.metrics.hubble import HubbleMetrics

log = structlog.get_logger("kubeweir.streams")

_OBSERVER: Final = "observer.Observer"
_HEALTH: Final = "grpc.health.v1.Health"
_HEALTH_NAMES: Final = frozenset({"", _OBSERVER, "hubble.server.Observer"})
_NS_PER_S: Final = 1_000_000_000
_NO_EVENTS: Final = "kubeweir has no events of Cilium's agent; weir-probe's are on /metrics and in its log"


@dataclass(frozen=True, slots=True)
class About:
    """What the server says of itself, and what it may answer."""

    version: str
    labels: Sequence[str]
    """The patterns of labels that records have, as WEIR_LABELS has them."""
    streams: int
    """How many clients may read flows at once."""
    address: str
    is_encrypted: bool


class Observer:
    """Answers requests; gRPC calls its methods on threads of its own."""

    def __init__(
        self,
        topics: Topics,
        census: Census,
        metrics: HubbleMetrics,
        about: About,
        problem: Callable[[], str | None],
        stop: threading.Event,
    ) -> None:
        """``problem``: why the topics cannot be read now, or None."""
        self._topics, self._census, self._metrics = topics, census, metrics
        self._about, self._problem, self._stop = about, problem, stop
        self._places = threading.BoundedSemaphore(about.streams)

    def handlers(self) -> list[Any]:
        """Return what a gRPC server asks for the methods."""
        unary = {
            "GetNodes": self.get_nodes,
            "GetNamespaces": self.get_namespaces,
            "ServerStatus": self.server_status,
        }
        methods = {name: _unary(method, f"{name}Request") for name, method in unary.items()}
        methods["GetFlows"] = grpc.unary_stream_rpc_method_handler(
            self.get_flows, message("GetFlowsRequest").FromString, _bytes
        )
        for name in ("GetAgentEvents", "GetDebugEvents"):
            methods[name] = grpc.unary_stream_rpc_method_handler(_no_events)
        health = {"Check": _unary(self.check, "HealthCheckRequest")}
        return [
            grpc.method_handlers_generic_handler(_OBSERVER, methods),
            grpc.method_handlers_generic_handler(_HEALTH, health),
        ]

    def get_flows(self, request: Any, context: Any) -> Iterator[Any]:
        """Send the flows that a request asks for."""
        try:
            asked = read_request(request, self._about.labels, datetime.now(UTC))
        except ValueError as error:
            self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not self._places.acquire(blocking=False):
            text = f"{self._about.streams} clients read flows already, which is the limit (WEIR_HUBBLE_STREAMS)"
            self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        try:
            with self._metrics.streams.track_inprogress():
                yield from self._flows(asked, context)
        finally:
            self._places.release()

    def _flows(self, asked: FlowsRequest, context: Any) -> Iterator[Any]:
        call = FlowsCall(
            self._topics, asked, self._about.version, lambda: context.is_active() and not self._stop.is_set()
        )
        try:
            for found in call.messages():
                if found.HasField("lost_events"):
                    self._metrics.lost.inc(found.lost_events.num_events_lost)
                else:
                    self._metrics.flows.inc()
                yield found
        except ClientGoneError:
            if self._stop.is_set():
                self._refuse(context, grpc.StatusCode.UNAVAILABLE, "the server stops")
        except ReadError as error:
            problem = self._problem()
            cause = f"; {problem}" if problem and problem not in str(error) else ""
            self._refuse(context, grpc.StatusCode.UNAVAILABLE, f"{error}{cause}")
        except TooMuchError as error:
            self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except OSError as error:
            text = f"no room to sort the flows ({error.strerror}): ask for a shorter time, or with more filters"
            self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    def _refuse(self, context: Any, code: Any, text: str) -> None:
        """End a request with an error; raises."""
        self._metrics.refused.labels(code.name.lower()).inc()
        log.info("a request for flows was refused", role="hubble", code=code.name, why=text)
        context.abort(code, text)

    def get_nodes(self, _: Any, context: Any) -> Any:
        """Return the nodes of the last hour."""
        self._check_kafka(context)
        made, now = message("GetNodesResponse")(), self._census.now
        for one in self._census.nodes():
            node = made.nodes.add(name=one.name, version=self._about.version, address=self._about.address)
            node.state = words.CONNECTED if one.is_alive(now) else words.GONE
            node.tls.enabled = self._about.is_encrypted
            node.uptime_ns = int(max(0.0, now - one.first_at) * _NS_PER_S)
            node.num_flows = node.seen_flows = one.flows
        return made

    def get_namespaces(self, _: Any, context: Any) -> Any:
        """Return the namespaces that had flows in the last hour."""
        self._check_kafka(context)
        made = message("GetNamespacesResponse")()
        for cluster, namespace in self._census.namespaces():
            made.namespaces.add(cluster=cluster, namespace=namespace)
        return made

    def server_status(self, _: Any, context: Any) -> Any:
        """Return how many flows there are, how many come, and from which nodes."""
        self._check_kafka(context)
        census, now = self._census, self._census.now
        made = message("ServerStatusResponse")(
            num_flows=census.kept,
            seen_flows=census.seen,
            version=f"kubeweir {self._about.version}",
            flows_rate=census.rate(),
        )
        made.uptime_ns = int(max(0.0, now - census.started_at) * _NS_PER_S)
        silent = [one.name for one in census.nodes() if not one.is_alive(now)]
        made.num_connected_nodes.value = len(census.nodes()) - len(silent)
        made.num_unavailable_nodes.value = len(silent)
        made.unavailable_nodes.extend(silent[:10])
        return made

    def check(self, request: Any, context: Any) -> Any:
        """Return whether the server can answer."""
        if request.service not in _HEALTH_NAMES:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return message("HealthCheckResponse")(status=words.NOT_SERVING if self._problem() else words.SERVING)

    def _check_kafka(self, context: Any) -> None:
        if problem := self._problem():
            self._refuse(context, grpc.StatusCode.UNAVAILABLE, problem)


def _unary(method: Callable[[Any, Any], Any], request: str) -> Any:
    return grpc.unary_unary_rpc_method_handler(method, message(request).FromString, _bytes)


def _bytes(found: Any) -> bytes:
    return bytes(found.SerializeToString())


def _no_events(_: Any, context: Any) -> Iterator[bytes]:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_EVENTS)
    yield b""
