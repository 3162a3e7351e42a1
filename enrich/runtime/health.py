"""The port for health and metrics: /metrics, /healthz (the process is alive) and /readyz (it does its work)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from enrich.runtime.process import Exit, StopServiceError

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


class HealthServer:
    """Serves the port on a thread, and adds to the registry the metrics that every process has."""

    def __init__(self, address: str, registry: CollectorRegistry, ready: dict[str, Check]) -> None:
        """``address`` is host:port. ``ready`` has the checks by name. Raises StopServiceError if the port is taken."""
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise StopServiceError(f"WEIR_METRICS={address!r}: must be host:port", Exit.USAGE)
        registry.register(ReadyCollector(ready))
        ProcessCollector(registry=registry)
        handler = _handler(registry, ready)
        try:
            self._server = _server(host.strip("[]") or "127.0.0.1", int(port), handler)
        except OSError as error:
            raise StopServiceError(
                f"cannot listen on {address} ({error.strerror}): another process may use it; "
                "set WEIR_METRICS to another host:port",
                Exit.RUNNING,
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _server(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server((host, port), handler)


def _handler(registry: CollectorRegistry, ready: dict[str, Check]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif path == "/healthz":
                self._answer(200, b"ok\n")
            elif path == "/readyz":
                problems = {name: problem for name, check in ready.items() if (problem := check())}
                text = "".join(f"{name}: {problem}\n" for name, problem in problems.items()) or "ok\n"
                self._answer(503 if problems else 200, text.encode())
            else:
                self._answer(404, b"/metrics, /healthz, /readyz\n")

        def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Log nothing: a scrape is not worth a line."""

    return Handler
