"""OTLP by gRPC: the same records, and the same judgement of whose fault an error is, as by HTTP."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from ports import free_port
from prometheus_client import CollectorRegistry

from enrich.runtime.process import StopServiceError
from streams.metrics.roles import SinkMetrics
from streams.routes import outputs
from streams.routes.model import Otlp, Route, RouteOutput
from streams.sinks.otlp import OtlpSink
from streams.sinks.sink import PartlyRefusedError, RefusedError, SinkError
from tests.kafka.receiver import Receiver
from tests.kafka.shippers import collector_binary
from tests.kafka.site import until
from tests.streams.alerts.makers import flow

grpc = pytest.importorskip("grpc", reason="needs the extra otlp-grpc")

_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


class Server:
    """Answers each request as ``answer`` does, and remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[ExportLogsServiceRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.answer: Callable[[Any], bytes] = lambda _: b""
        # The interpreter waits for these threads, which end with the server.
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self.port = 0

    def start(self, credentials: Any = None) -> Server:
        """Listen, with TLS if there are credentials."""
        address = "127.0.0.1:0"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )
        self._server.start()
        return self

    def service(self, details: Any) -> Any:
        """Return the handler of a method."""
        return grpc.unary_unary_rpc_method_handler(self._export) if details.method == _METHOD else None

    def _export(self, body: bytes, context: Any) -> bytes:
        self.requests.append(ExportLogsServiceRequest.FromString(body))
        self.metadata.append(dict(context.invocation_metadata()))
        return self.answer(context)

    def close(self) -> None:
        self._server.stop(0).wait(60)

    def sink(self, headers: Any = None, timeout_s: float = 60, **options: Any) -> OtlpSink:
        scheme = "https" if options else "http"
        url = f"{scheme}://127.0.0.1:{self.port}"
        return OtlpSink(url, headers or {}, timeout_s, protocol="grpc", **options)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def _values(number: int = 1) -> list[bytes]:
    return [orjson.dumps(flow(time.time(), id=f"r-{one}")) for one in range(number)]


def _fails(code: Any, text: str = "no") -> Callable[[Any], bytes]:
    def answer(context: Any) -> bytes:
        context.abort(code, text)
        raise AssertionError

    return answer


def test_records_arrive_in_requests_as_by_http_with_the_headers(server: Server) -> None:
    server.start().sink({"X-Tenant": "a"}).write(_values(600))
    assert [len(one.resource_logs[0].scope_logs[0].log_records) for one in server.requests] == [500, 100]
    assert server.metadata[0]["x-tenant"] == "a"


@pytest.mark.parametrize("name", [code.name for code in grpc.StatusCode if code.name != "OK"])
def test_only_a_status_about_the_content_refuses_the_records(server: Server, name: str) -> None:
    server.answer = _fails(grpc.StatusCode[name])
    with pytest.raises(
        (SinkError, RefusedError), match=f"http://127.0.0.1:{server.start().port}: {name}: no"
    ) as caught:
        server.sink().write(_values())
    assert isinstance(caught.value, RefusedError) == (name == "INVALID_ARGUMENT")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text",
    [
        "grpc: received message larger than max (5 vs. 4)",
        "grpc: received message after decompression larger than max 4",
        "SERVER: Received message larger than max (5 vs. 4)",
    ],
)
def test_a_request_that_is_too_large_is_refused_so_that_a_smaller_one_is_tried(server: Server, text: str) -> None:
    server.answer = _fails(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    with pytest.raises(RefusedError):
        server.start().sink().write(_values())


def test_a_server_says_how_long_it_wants_to_be_left_alone(server: Server) -> None:
    info, packed = RetryInfo(), AnyMessage()
    info.retry_delay.seconds, info.retry_delay.nanos = 17, 500_000_000
    packed.Pack(info)
    details = Status(code=8, message="full", details=[packed]).SerializeToString()

    def answer(context: Any) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        return _fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")(context)

    server.answer = answer
    with pytest.raises(SinkError) as caught:
        server.start().sink().write(_values())
    assert caught.value.retry_after_s == 17.5


def test_logs_that_a_receiver_rejects_are_reported_by_number(server: Server) -> None:
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = 2
    answer.partial_success.error_message = "too old"
    server.answer = lambda _: answer.SerializeToString()
    with pytest.raises(PartlyRefusedError, match="rejected 2 of 3: too old") as caught:
        server.start().sink().write(_values(3))
    assert (caught.value.tried, caught.value.rejected) == (3, 2)


def test_no_text_holds_a_secret(server: Server) -> None:
    server.answer = _fails(grpc.StatusCode.UNAUTHENTICATED, "the token s3cr3t-1 is not known")
    sink = server.start().sink({"Authorization": "Bearer s3cr3t-1"})
    with pytest.raises(SinkError, match="UNAUTHENTICATED") as caught:
        sink.write(_values())
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(SinkError, match="Invalid metadata") as caught:
        server.sink({"X-Token": "s3cr3t-2\n"}).write(_values())
    assert "s3cr3t" not in f"{caught.value}{caught.value.__cause__}"


def test_the_user_of_the_address_is_preferred_to_a_header_as_by_http(server: Server) -> None:
    sent: list[str] = []

    def answer(context: Any) -> bytes:
        sent.extend(value for name, value in context.invocation_metadata() if name == "authorization")
        return b""

    server.answer = answer
    url = f"http://us%20er:p%3Aw@127.0.0.1:{server.start().port}"
    OtlpSink(url, {"Authorization": "Bearer token"}, 60, protocol="grpc").write(_values())
    assert sent == [f"Basic {base64.b64encode(b'us er:p:w').decode()}"]


def test_nothing_unencrypted_goes_to_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    server.start().sink().write(_values())
    assert len(server.requests) == 1


def test_a_silent_server_is_given_up_after_the_timeout(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = OtlpSink(f"http://127.0.0.1:{silent.getsockname()[1]}", {}, 0.2, protocol="grpc")
        with pytest.raises(SinkError, match=r"DEADLINE_EXCEEDED|UNAVAILABLE"):
            sink.write(_values())
        sink.close()


def _certificates(folder: Path) -> None:
    """Write an authority, a server's certificate and a client's."""
    commands = [["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=ca", "-keyout", "ca.key",
                 "-out", "ca.crt"]]  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for number, name in enumerate(("server", "client"), 1):
        commands += [
            ["req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr"],
            ["x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial", str(number), "-days",
             "3", "-extfile", "names", "-out", f"{name}.crt"],
        ]  # fmt: skip
    for arguments in commands:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def test_an_authority_and_a_client_certificate_that_are_renewed_on_disk_are_used(
    server: Server, tmp_path: Path
) -> None:
    _certificates(tmp_path)
    read = {name: (tmp_path / name).read_bytes() for name in ("server.key", "server.crt", "ca.crt", "client.key")}
    pair = [(read["server.key"], read["server.crt"])]
    server.start(grpc.ssl_server_credentials(pair, read["ca.crt"], require_client_auth=True))
    ca, key = tmp_path / "ca.crt", tmp_path / "client.key"
    sink = server.sink(ca=str(ca), certificate=(str(tmp_path / "client.crt"), str(key)))
    for wrong in ((tmp_path / "client.crt").read_bytes(), b"no certificate", b""):
        ca.write_bytes(wrong)
        with pytest.raises(SinkError, match=r"UNAVAILABLE|is empty"):
            sink.write(_values())
    ca.write_bytes(read["ca.crt"])
    key.write_bytes(read["server.key"])  # it is not the certificate's
    with pytest.raises(SinkError, match="UNAVAILABLE"):
        sink.write(_values())
    key.unlink()
    with pytest.raises(SinkError, match="No such file"):
        sink.write(_values())
    key.write_bytes(read["client.key"])
    sink.write(_values())
    assert len(server.requests) == 1
    sink.close()


def test_without_the_library_the_output_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "streams.sinks.grpc_call", raising=False)
    output = RouteOutput(otlp=Otlp(endpoint="http://collector:4317", protocol="grpc"))
    route = Route(name="a", outputs=[output])
    with pytest.raises(StopServiceError, match=r"install .\.\[otlp-grpc\]"):
        outputs._otlp(outputs.RouteSink("a.otlp", route, output), SinkMetrics(CollectorRegistry()))


_COLLECTOR = """\
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: "LISTEN"
        max_recv_msg_size_mib: 1
        tls: {cert_file: FOLDER/server.crt, key_file: FOLDER/server.key, client_ca_file: FOLDER/ca.crt}
exporters:
  otlphttp: {endpoint: "TO", sending_queue: {enabled: false}, retry_on_failure: {enabled: false}}
service:
  pipelines:
    logs: {receivers: [otlp], exporters: [otlphttp]}
  telemetry:
    metrics: {level: none}
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.mark.timeout(2700)  # with the build of the Collector
def test_a_real_collector_takes_them_and_refuses_what_is_too_large(receiver: Receiver, tmp_path: Path) -> None:
    binary = collector_binary()
    if binary is None:
        pytest.skip("needs Go, to build the Collector (deploy/local/collector)")
    _certificates(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "collector.yaml"
    to = receiver.url.removesuffix("/v1/logs")
    config.write_text(_COLLECTOR.replace("LISTEN", address).replace("TO", to).replace("FOLDER", str(tmp_path)))
    pair = (str(tmp_path / "client.crt"), str(tmp_path / "client.key"))
    sink = OtlpSink(f"https://{address}", {}, 5, str(tmp_path / "ca.crt"), pair, "grpc")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([binary, "--config", str(config)], stdout=log, stderr=log)
    try:
        values = _values(10)

        def taken() -> bool | None:
            try:
                sink.write(values)
            except SinkError:
                return None
            return True

        until(taken, lambda: f"the Collector: {(tmp_path / 'log').read_text()}")
        assert len(receiver.logs) == 10
        large = orjson.dumps(orjson.loads(values[0]) | {"id": "x" * (2 << 20)})
        with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
            sink.write([large])
        receiver.away = True
        with pytest.raises(SinkError, match="UNAVAILABLE"):
            sink.write(values)
    finally:
        sink.close()
        process.kill()
        process.wait()
