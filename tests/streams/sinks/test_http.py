"""Whose fault an answer is: of the records that were sent, or of something that passes or that an operator mends."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from enrich.runtime.retry_after import retry_after_s
from streams.forms import converter
from streams.sinks.http import Poster
from streams.sinks.otlp import OtlpSink
from streams.sinks.sink import PartlyRefusedError, RefusedError, SinkError
from streams.sinks.webhook import WebhookSink
from tests.streams.alerts.makers import flow
from tests.streams.sinks.far_end import FarEnd, far

__all__ = ["far"]


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_status_about_the_content_refuses_the_records(far: FarEnd, status: int) -> None:
    far.answer = lambda _: (status, {}, b"no such label")
    with pytest.raises(RefusedError, match=f"{status} no such label"):
        Poster(far.url, {}, 5).post([])


@pytest.mark.parametrize("status", [301, 401, 402, 403, 404, 405, 407, 408, 410, 415, 421, 429, 431, 451, 500, 503])
def test_any_other_error_is_retried(far: FarEnd, status: int) -> None:
    far.answer = lambda _: (status, {"Location": far.url}, b"")
    with pytest.raises(SinkError, match=str(status)):
        Poster(far.url, {}, 5).post([])
    assert len(far.bodies) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<title>400 The plain HTTP request was sent to HTTPS port</title>",
    ],
)
def test_a_server_that_expects_tls_refuses_no_record(far: FarEnd, text: bytes) -> None:
    far.answer = lambda _: (400, {}, text)
    with pytest.raises(SinkError):
        Poster(far.url, {}, 5).post([])


def test_a_server_says_how_long_it_wants_to_be_left_alone(far: FarEnd) -> None:
    far.answer = lambda _: (429, {"Retry-After": "17"}, b"")
    with pytest.raises(SinkError) as caught:
        Poster(far.url, {}, 5).post([])
    assert caught.value.retry_after_s == 17


def test_the_time_to_wait_is_seconds_or_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert 80 < retry_after_s({"Retry-After": format_datetime(soon, usegmt=True)}) <= 100
    assert retry_after_s({"Retry-After": format_datetime(soon - timedelta(days=1), usegmt=True)}) == 0
    assert retry_after_s({"Retry-After": "9" * 400}) == 999_999_999
    for text in ("", "-5", "1e9", "soon", "Thu, 99 Zzz 2026", "nan", "٣"):
        assert retry_after_s({"Retry-After": text}) == 0


def test_a_long_answer_is_not_read_to_its_end(far: FarEnd) -> None:
    far.answer = lambda _: (200, {}, bytes(4 << 20))
    assert len(Poster(far.url, {}, 5).post_bytes(b"", {})) < 2 << 20


def test_a_later_request_that_fails_says_what_earlier_ones_stored(far: FarEnd) -> None:
    far.answer = lambda body: (503 if b'"150"' in body else 200, {}, b"")
    with pytest.raises(SinkError) as caught:
        WebhookSink(Poster(far.url, {}, 5)).write([orjson.dumps({"id": str(number)}) for number in range(250)])
    assert (caught.value.done, len(far.bodies)) == (100, 2)


def test_logs_that_a_receiver_rejects_are_reported_by_number(far: FarEnd) -> None:
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = 2
    answer.partial_success.error_message = "too old"
    far.answer = lambda _: (200, {}, answer.SerializeToString())
    values = [orjson.dumps(flow(time.time())) for _ in range(600)]
    with pytest.raises(PartlyRefusedError, match="rejected 2 of 500: too old") as caught:
        OtlpSink(far.url, {}, 5).write(values)
    assert (caught.value.done, caught.value.tried, caught.value.rejected) == (0, 500, 2)
    (request,) = map(ExportLogsServiceRequest.FromString, map(gzip.decompress, far.bodies))
    assert len(request.resource_logs[0].scope_logs[0].log_records) == 500


def test_the_body_of_a_log_has_the_form_and_the_attributes_stay(far: FarEnd) -> None:
    far.answer = lambda _: (200, {}, b"")
    value = orjson.dumps(flow(time.time()))
    convert = converter("cef")
    assert convert is not None
    OtlpSink(far.url, {}, 5).write([value])
    OtlpSink(far.url, {}, 5, convert=convert).write([value])
    requests = [ExportLogsServiceRequest.FromString(gzip.decompress(body)) for body in far.bodies]
    plain, formed = (request.resource_logs[0].scope_logs[0].log_records[0] for request in requests)
    assert (plain.body.string_value, formed.body.string_value) == (value.decode(), convert(value).decode())
    assert plain.attributes == formed.attributes


@pytest.mark.parametrize("answer", [b"", b"ok", b"{}", b'{"partialSuccess":{}}', b"\xff\xff"])
def test_an_accepting_answer_that_is_no_message_of_the_protocol_rejects_nothing(far: FarEnd, answer: bytes) -> None:
    far.answer = lambda _: (200, {}, answer)
    OtlpSink(far.url, {}, 5).write([orjson.dumps(flow(time.time()))])


def test_a_new_webhook_begins_with_what_fires_now_and_is_told_each_alert_once(far: FarEnd) -> None:
    sink = WebhookSink(Poster(far.url, {}, 5))
    firing = [{"id": f"a{number}"} for number in range(150)]
    sink.begin(lambda: firing)
    far.answer = lambda body: (400 if b'"a7"' in body else 200, {}, b"")
    sink.write([orjson.dumps({"id": "a3"}), orjson.dumps({"id": "b1"})])
    far.bodies.clear()
    sink.write([orjson.dumps({"id": "b2"})])
    assert far.bodies == [b'[{"id":"b2"}]']


@pytest.mark.parametrize("earlier", [[], [{"id": "b"}]], ids=["in the first write", "later"])
def test_an_alert_that_a_new_webhook_refuses_is_refused_where_the_topic_shows_it(
    far: FarEnd, earlier: list[dict[str, str]]
) -> None:
    sink = WebhookSink(Poster(far.url, {}, 5))
    sink.begin(lambda: [{"id": "a"}])
    far.answer = lambda body: (400 if b'"a"' in body else 200, {}, b"")
    if earlier:
        sink.write([orjson.dumps(record) for record in earlier])
    with pytest.raises(RefusedError):
        sink.write([orjson.dumps({"id": "a"})])


def test_a_webhook_that_is_away_when_it_is_new_gets_what_fires_later(far: FarEnd) -> None:
    sink = WebhookSink(Poster(far.url, {}, 5))
    sink.begin(lambda: [{"id": "a"}])
    far.answer = lambda _: (503, {}, b"")
    with pytest.raises(SinkError):
        sink.write([orjson.dumps({"id": "b"})])
    far.answer = lambda _: (200, {}, b"")
    far.bodies.clear()
    sink.write([orjson.dumps({"id": "b"})])
    assert far.bodies == [b'[{"id":"a"}]', b'[{"id":"b"}]']
