"""An OTLP receiver over HTTP, made of the protocol's messages: it accepts, is unavailable or refuses, as tests set."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord


class Receiver:
    """Listens on a port. Accepted logs are in ``logs``."""

    def __init__(self, port: int = 0) -> None:
        self.logs: list[LogRecord] = []
        self.requests: list[ExportLogsServiceRequest] = []
        self.away = False
        self.mute = False
        """Read requests, and never answer."""
        self.refuses: Callable[[LogRecord], bool] = lambda _: False
        """With 400, as a receiver that cannot read a request."""
        self.rejects: Callable[[LogRecord], bool] = lambda _: False
        """With a partial success."""
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/logs"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: ExportLogsServiceRequest) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        if self.away:
            return 503, b"away"
        logs = [log for of in request.resource_logs for scope in of.scope_logs for log in scope.log_records]
        if any(map(self.refuses, logs)):
            return 400, b"no such thing"
        answer = ExportLogsServiceResponse()
        answer.partial_success.rejected_log_records = sum(map(self.rejects, logs))
        self.requests.append(request)
        self.logs += [log for log in logs if not self.rejects(log)]
        return 200, answer.SerializeToString()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                mute = receiver.mute
                code, answer = receiver.take(ExportLogsServiceRequest.FromString(plain))
                if mute:
                    with contextlib.suppress(ConnectionError):
                        self.rfile.read(1)  # until the sender is gone
                    return
                self.send_response(code)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
