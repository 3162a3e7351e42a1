"""The port for health and metrics: /metrics, /healthz (the process is alive) and /readyz (it does its work)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from enrich.runtime.dead_threads import dead_thread
from enrich.runtime.http_port import Closed, HttpPort, Response
from enrich.runtime.listening import MAX_PORT, split_address
from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.secure_port import Guard
from enrich.runtime.token_gate import FORBIDDEN, UNAUTHENTICATED, UNKNOWN
from enrich.runtime.version import version_text

_REFUSED: Final = {
    UNAUTHENTICATED: b"a valid bearer token is needed (WEIR_METRICS_AUTH)\n",
    FORBIDDEN: b"RBAC does not give this token's user the verb get on the nonResourceURL /metrics\n",
    UNKNOWN: b"the API server cannot be asked who you are: try again\n",
}
Check = Callable[[], str | None]
"""A function that returns None if all is well, and otherwise says in words what is not."""
_SINCE_START: Final = "since the start"
_START_S: Final = 1.0
"""A check that has never passed says since when, once that is longer ago."""


class Readiness:
    """Asks the checks, and remembers which have passed: of one that never has, it says since when."""

    def __init__(
        self, checks: Mapping[str, Check], clock: Callable[[], float] = time.monotonic, pool: Executor | None = None
    ) -> None:
        """``pool`` asks checks that wait side by side; None: one after the other."""
        self._checks, self._clock, self._map = checks, clock, pool.map if pool else map
        self._started_at, self._passed = clock(), set[str]()

    def names(self) -> list[str]:
        """Return the names of the checks."""
        return list(self._checks)

    def problems(self) -> dict[str, str]:
        """Return what the checks that fail say, by name."""
        checks = dict(self._checks)
        found = dict(zip(checks, self._map(_ask, checks.values()), strict=True))
        self._passed |= {name for name, problem in found.items() if not problem}
        return {name: f"{problem}{self._since_start(name, problem)}" for name, problem in found.items() if problem}

    def _since_start(self, name: str, problem: str) -> str:
        seconds = self._clock() - self._started_at
        # The page of all roles repeats what a role says.
        if name in self._passed or seconds < _START_S or _SINCE_START in problem:
            return ""
        return f" ({_SINCE_START}, {seconds:.0f} s ago)"


def _ask(check: Check) -> str | None:
    return check()


class ReadyCollector(Collector):
    """Exports the checks of /readyz as a metric, for alerting rules."""

    def __init__(self, ready: Readiness) -> None:
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        """Yield one gauge, 1 or 0 for each check."""
        family = GaugeMetricFamily(
            "kubeweir_ready", "1 if the check passes; 0 if not, then /readyz says why", labels=["check"]
        )
        problems = self._ready.problems()
        for name in self._ready.names():
            family.add_metric([name], 0 if name in problems else 1)
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


def build_info(registry: CollectorRegistry) -> Gauge:
    """Make the metric that says which version runs."""
    gauge = Gauge(
        "kubeweir_build_info", "1, with the version of the process as a label", ["version"], registry=registry
    )
    gauge.labels(version_text()).set(1)
    return gauge


class HealthServer:
    """Serves the port on a thread, and adds to the registry the metrics that every process has."""

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        ready: dict[str, Check],
        notes: Callable[[], Iterable[str]] = tuple,
        details: Callable[[], Iterable[str]] = tuple,
        guard: Guard | None = None,
        pool: Executor | None = None,
    ) -> None:
        """``address`` is host:port. ``ready`` has the checks by name. Raises StopServiceError if the port is taken.

        The check ``threads`` is added: it fails when a thread of the process has died.

        ``notes`` returns lines that /readyz adds: what a person should know, and no restart would mend. ``details``
        returns lines that it adds while a check fails. ``guard``: TLS, and who may read; None: plain text, everybody.
        ``pool``: as for :class:`Readiness`.
        """
        split = split_address(address)
        if split is None:
            raise StopServiceError(
                f"WEIR_METRICS={address!r}: must be host:port, with a port up to {MAX_PORT}", Exit.USAGE
            )
        ready["threads"] = dead_thread
        self._registry, self._ready = registry, Readiness(ready, pool=pool)
        self._notes, self._details = notes, details
        registry.register(ReadyCollector(self._ready))
        ProcessCollector(registry=registry)
        build_info(registry)
        closed = closed_connections(registry)
        try:
            self._port = HttpPort(
                (split[0] or "127.0.0.1", split[1]),
                self._answer,
                slow={"/metrics"},
                on_closed=lambda reason: closed.labels(reason.value).inc(),
                guard=guard,
                refused=self._answer_stranger,
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
            problems = self._ready.problems()
            text = "".join(f"{name}: {problem}\n" for name, problem in problems.items()) or "ok\n"
            text += "".join(f"{line}\n" for line in [*self._notes(), *(self._details() if problems else ())])
            return Response(503 if problems else 200, text.encode())
        return Response(404, b"/metrics, /healthz, /readyz\n")

    def _answer_stranger(self, path: str, status: int) -> Response:
        """Answer a client that may not read. The kubelet has no token, and needs no names of pods and policies."""
        if path == "/readyz":
            problems = self._ready.problems()
            text = f"not ready: {', '.join(problems)}; the reasons need a token\n" if problems else "ok\n"
            return Response(503 if problems else 200, text.encode())
        return Response(status, _REFUSED[status]) if path == "/metrics" else self._answer(path)
