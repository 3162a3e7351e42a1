"""Records that the enricher did not write: each sink refuses them, and does not end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from streams.alerts.outputs import _is_alert
from streams.forms import FORMS, Form, converter
from streams.sinks.events import EventSink
from streams.sinks.formed import FormedSink
from streams.sinks.otlp import OtlpSink
from streams.sinks.sink import RefusedError, Sink
from tests.streams.alerts.makers import flow, stamp


class Anything:
    """A destination that takes everything."""

    def write(self, values: Sequence[bytes]) -> None: ...

    def close(self) -> None: ...


def convert_to(form: Form) -> Callable[[bytes], bytes]:
    """What makes the form, which is not ``record``."""
    convert = converter(form)
    assert convert is not None
    return convert


SINKS: dict[str, Callable[[], Sink]] = {
    "event": lambda: EventSink(lambda _path, _event: None, 600, 60, lambda _: None),
    "otlp": lambda: OtlpSink("http://127.0.0.1:1", {}, 1),
    **{name: lambda name=name: FormedSink(Anything(), convert_to(name)) for name in FORMS},  # type: ignore[misc]
    **{
        f"otlp in {name}": lambda name=name: OtlpSink("http://127.0.0.1:1", {}, 1, convert=convert_to(name))  # type: ignore[misc]
        for name in FORMS
    },
}


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("field", ["timestamp", "last_timestamp"])
@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-13-01T00:00:00.000000000Z", "2026-01-01T00:00:00Z", "1969-12-31T00:00:00.000000000Z"],
)
def test_a_time_that_the_enricher_does_not_write_is_refused(sink: str, field: str, text: str) -> None:
    with pytest.raises(RefusedError):
        SINKS[sink]().write([orjson.dumps({**flow(), field: text})])


@pytest.mark.parametrize("form", FORMS)
def test_a_protocol_of_many_digits_has_no_number(form: str) -> None:
    SINKS[form]().write([orjson.dumps(flow(connection={"protocol": "9" * 5000}))])


@pytest.mark.parametrize("more", [b'"id":[]', b'"x":"\\ud800"', b'"x":' + b"[" * 2000 + b"]" * 2000])
def test_an_alert_that_a_sink_cannot_read_is_not_one(more: bytes) -> None:
    alert: dict[str, Any] = {
        "id": "a", "fingerprint": "f", "status": "firing", "labels": {}, "annotations": {},
        "startsAt": stamp(time.time()),
    }  # fmt: skip
    good = orjson.dumps(alert)
    assert _is_alert(good)
    with pytest.raises(ValueError, match=r"."):
        _is_alert(good[:-1] + b"," + more + b"}")
