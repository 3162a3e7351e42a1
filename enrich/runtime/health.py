"""The health and metrics port: /metrics, /healthz (alive), /readyz (does its work)."""

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
"""None: all is well; else what is not, in words."""


class ReadyCollector(Collector):
    """What /readyz says, for rules."""

    def __init__(self, ready: Mapping[str, Check]) -> None:
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        """One family."""
        family = GaugeMetricFamily(
            "kubeweir_ready", "1: this check is passed; 0: /readyz says why not", labels=["check"]
        )
        for name, check in tuple(self._ready.items()):
            family.add_metric([name], 0 if check() else 1)
        yield family


class HealthServer:
    """Serves on a thread. ``ready`` maps a check's name to it. Adds to the registry what every process tells."""

    def __init__(self, address: str, registry: CollectorRegistry, ready: dict[str, Check]) -> None:
        """``address`` is host:port. Raises StopServiceError where the port is taken."""
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
                f"{address} cannot be listened on ({error.strerror}): another one may be running; "
                "set WEIR_METRICS to another host:port",
                Exit.RUNNING,
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
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
            """Scrapes are no news."""

    return Handler
