"""What the client makes of an answer that asks it to wait."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import kubernetes
import pytest

from enrich.sources.client import AnswerError, Client
from enrich.sources.messages import error_of


class Busy(BaseHTTPRequestHandler):
    """Answers as an API server that is overloaded."""

    asked = 0
    after = "3600"

    def do_GET(self) -> None:
        Busy.asked += 1
        self.send_response(429)
        self.send_header("Retry-After", self.after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.mark.parametrize(("after", "seconds"), [("3600", 3600), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0)])
def test_the_client_does_not_sleep_for_the_server(after: str, seconds: float) -> None:
    Busy.after, Busy.asked = after, 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    configuration = kubernetes.client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    client = Client(lambda: kubernetes.client.ApiClient(configuration))
    client.connect()
    try:
        with pytest.raises(AnswerError) as raised, client.get("/api/v1/pods", {}, "application/json", 10.0):
            pass
        assert (raised.value.status, raised.value.retry_after_s) == (429, seconds)
        assert Busy.asked == 1, "our own backoff decides when to ask again"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_error_in_a_stream_may_ask_to_wait_as_well() -> None:
    error = error_of({"code": 429, "message": "too many", "details": {"retryAfterSeconds": 4}})
    assert isinstance(error, AnswerError)
    assert (error.status, error.retry_after_s) == (429, 4.0)
    odd: list[Any] = [None, [], {"retryAfterSeconds": "soon"}]
    for details in odd:
        assert getattr(error_of({"code": 500, "details": details}), "retry_after_s", None) == 0.0
