"""The port for health and metrics: /metrics, /healthz (the process is alive) and /readyz (it does its work)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from enrich.runtime.dead_threads import dead_thread
from enrich.runtime.http_port import Closed, HttpPort, Response
from enrich.runtime.process import Exit, StopServiceError

_MAX_PORT: Final = 65_535
Check = Callable[[], str | None]
"""A function that returns None if all is well, and otherwise says in words what is not."""


class ReadyCollector(Collector):
    """Exports the checks of /readyz as a metric, for alerting rules."""

    def __init__(self, ready: Mapping[str, Check]) -> None:
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        """Yield one gauge, 1 or 0 for each check."""
        family = GaugeMetricFamily(
            "kubeweir_ready", "1 if the check passes; 0 if not, then /readyz says why", labels=["check"]
        )
        for name, check in tuple(self._ready.items()):
            family.add_metric([name], 0 if check() else 1)
        yield family


def closed_connections(registry: CollectorRegistry) -> Counter:
    """Make the counter of connections to the port that were closed without an answer, by :class:`Closed`."""
    counter = Counter(
        "kubeweir_health_closed_connections",
        "Connections to the metrics port that were closed before their client had an answer: displaced by a newer one, "
        "slow_request, slow_reader, too_large",
        ["reason"],
        registry=registry,
    )
    for reason in Closed:
        counter.labels(reason.value)
    return counter


class HealthServer:
    """Serves the port on a thread, and adds to the registry the metrics that every process has."""

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        ready: dict[str, Check],
        notes: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``address`` is host:port. ``ready`` has the checks by name. Raises StopServiceError if the port is taken.

        The check ``threads`` is added: it fails when a thread of the process has died.

        ``notes`` returns lines that /readyz adds: what a person should know, and no restart would mend.
        """
        host, _, port = address.rpartition(":")
        if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
            raise StopServiceError(
                f"WEIR_METRICS={address!r}: must be host:port, with a port up to {_MAX_PORT}", Exit.USAGE
            )
        ready["threads"] = dead_thread
        self._registry, self._ready, self._notes = registry, ready, notes
        registry.register(ReadyCollector(ready))
        ProcessCollector(registry=registry)
        closed = closed_connections(registry)
        try:
            self._port = HttpPort(
                (host.strip("[]") or "127.0.0.1", int(port)),
                self._answer,
                slow={"/metrics"},
                on_closed=lambda reason: closed.labels(reason.value).inc(),
            )
        except OSError as error:
            raise StopServiceError(
                f"cannot listen on {address} ({error.strerror}): another process may use it; "
                "set WEIR_METRICS to another host:port",
                Exit.RUNNING,
            ) from error

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._port.port

    def close(self) -> None:
        """Stop listening."""
        self._port.close()

    def _answer(self, path: str) -> Response:
        if path == "/metrics":
            return Response(200, generate_latest(self._registry), CONTENT_TYPE_LATEST)
        if path == "/healthz":
            return Response(200, b"ok\n")
        if path == "/readyz":
            problems = {name: problem for name, check in self._ready.items() if (problem := check())}
            text = "".join(f"{name}: {problem}\n" for name, problem in problems.items()) or "ok\n"
            text += "".join(f"{note}\n" for note in self._notes())
            return Response(503 if problems else 200, text.encode())
        return Response(404, b"/metrics, /healthz, /readyz\n")
