"""Whose fault a refused Event is. tests/cluster asks a real API server."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import orjson
import pytest

from enrich.sources.client import AnswerError
from streams.sinks.events import EventSink
from streams.sinks.sink import RefusedError, SinkError
from tests.streams.alerts.makers import flow


def denied(port: int, namespace: str = "shop") -> bytes:
    return orjson.dumps(flow(time.time(), src=f"{namespace}/web", port=port))


def status(code: int, reason: str, message: str, **details: Any) -> AnswerError:
    return AnswerError("no", code, answer={"kind": "Status", "reason": reason, "message": message, "details": details})


TERMINATING = status(
    403, "Forbidden", 'events "x" is forbidden: unable to create new content in namespace a because it is being '
    "terminated", name="x", kind="events",
    causes=[{"reason": "NamespaceTerminating", "message": "namespace a is being terminated"}],
)  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        TERMINATING,
        status(404, "NotFound", 'namespaces "a" not found', name="a", kind="namespaces"),
        status(422, "Invalid", "Event is invalid", name="x", kind="Event"),
        status(400, "BadRequest", "the namespace of the object does not match"),
        status(403, "Forbidden", 'admission webhook "a.b" denied the request: no'),
        status(403, "Forbidden", "ValidatingAdmissionPolicy 'a' with binding 'b' denied request: no"),
        status(403, "Forbidden", 'events "x" is forbidden: exceeded quota: q', name="x", kind="events"),
        AnswerError("no", 413),
    ],
)
def test_an_event_that_will_never_be_made_is_refused_alone_and_the_others_are_made(answer: AnswerError) -> None:
    made: list[str] = []

    def post(_path: str, event: Any) -> None:
        if ", port 2/tcp" in event["message"]:
            raise answer
        made.append(event["message"])

    sink = EventSink(post, 600, 60, lambda _: None)
    values = [denied(port) for port in range(1, 5)]
    with pytest.raises(RefusedError) as caught:
        sink.write(values)
    assert (caught.value.done, caught.value.tried) == (1, 1)
    sink.write(values[2:])
    assert len(made) == 3


@pytest.mark.parametrize(
    "answer",
    [
        status(403, "Forbidden", 'events is forbidden: User "a" cannot create resource "events"', kind="events"),
        status(404, "NotFound", "the server could not find the requested resource"),
        status(401, "Unauthorized", "Unauthorized"),
        status(429, "TooManyRequests", "too many requests"),
        status(500, "InternalError", 'failed calling webhook "a.b"'),
        status(503, "ServiceUnavailable", "apiserver is shutting down"),
        AnswerError("a proxy's page", 404),
        AnswerError("Client sent an HTTP request to an HTTPS server.", 400),
        AnswerError("a proxy's page", 403),
        AnswerError("no answer", 0),
        AnswerError("odd", 403, answer={"kind": "Status", "details": {"causes": [None, "x", {}]}}),
        AnswerError("odd", 403, answer={"kind": "Status", "details": 7, "message": None}),
    ],
)
def test_what_passes_or_what_an_operator_mends_is_retried(answer: AnswerError) -> None:
    def post(_path: str, _event: Any) -> None:
        raise answer

    with pytest.raises(SinkError):
        EventSink(post, 600, 60, lambda _: None).write([denied(1)])


def test_a_namespace_that_is_being_deleted_is_not_asked_again_for_equal_denials() -> None:
    asked: list[str] = []
    suppressed: Counter[str] = Counter()

    def post(path: str, _event: Any) -> None:
        asked.append(path)
        raise TERMINATING

    sink = EventSink(post, 600, 60, lambda why: suppressed.update([why]))
    for _ in range(5):
        try:
            sink.write([denied(1)])
        except RefusedError:
            continue
    assert (len(asked), suppressed) == (1, {"repeated": 4})


def test_the_api_server_says_how_long_it_wants_to_be_left_alone() -> None:
    def post(_path: str, _event: Any) -> None:
        raise AnswerError("busy", 429, retry_after_s=9)

    with pytest.raises(SinkError) as caught:
        EventSink(post, 600, 60, lambda _: None).write([denied(1)])
    assert caught.value.retry_after_s == 9


@pytest.mark.parametrize("namespace", ["", "kube-system/pods?x=", "..", "A"])
def test_a_record_names_no_other_path_of_the_api_server(namespace: str) -> None:
    asked: list[str] = []
    record = flow(time.time())
    record["src"] |= {"namespace": namespace}
    with pytest.raises(RefusedError):
        EventSink(lambda path, _event: asked.append(path), 600, 60, lambda _: None).write([orjson.dumps(record)])
    assert not asked
