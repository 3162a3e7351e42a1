"""Records in published forms, against what each publisher says of the fields that are used.

The tables below were taken from the publishers' own pages; a test fails for a field that is in none of them, so that a
new field is looked up before it is sent. ``test_published.py`` asks the schemas themselves, where there are packages of
them: there is none of the Common Event Format.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
import orjson
import pytest

from enrich.wire.flow import Flow, decode_flow
from streams.forms import FORMS, converter
from streams.forms.reading import time_ms
from streams.sinks.formed import FormedSink
from tests.streams.alerts.makers import T0, flow

ECS: Final = {
    "date": ["@timestamp", "event.start", "event.end"],
    "ip": ["source.ip", "destination.ip", "related.ip"],
    "long": ["source.port", "destination.port"],
    "text": [
        "message", "ecs.version", "event.kind", "event.category", "event.type", "event.action", "event.outcome",
        "event.id", "event.module", "event.dataset", "event.reason", "source.address", "destination.address",
        "network.transport", "network.iana_number", "network.type", "network.direction", "rule.name", "rule.category",
        "observer.type", "observer.vendor", "observer.product", "observer.hostname", "orchestrator.type",
        "orchestrator.cluster.id", "orchestrator.namespace", "orchestrator.resource.type",
        "orchestrator.resource.name", "orchestrator.resource.id", "orchestrator.resource.label",
    ],
}  # fmt: skip
"""Elastic's types: https://www.elastic.co/docs/reference/ecs/ecs-field-reference."""
ECS_LISTS: Final = {"event.category", "event.type", "related.ip", "orchestrator.resource.label"}
CEF: Final = {
    "rt", "start", "end", "externalId", "act", "reason", "outcome", "deviceDirection", "proto", "src", "dst", "spt",
    "dpt", "cnt", "dvchost", "c6a2", "c6a2Label", "c6a3", "c6a3Label",
    *(f"cs{number}{kind}" for number in range(1, 7) for kind in ("", "Label")),
}  # fmt: skip
"""Keys of the extension dictionary of ArcSight's Common Event Format."""

FLOOD = {"connection": {"direction": "ingress"}, "aggregated": True, "src": {}, "dest": {}, "count": 5000}


def record(**more: Any) -> Flow:
    return decode_flow(orjson.dumps({**flow(T0 + 0.25), **more}))


def records() -> Iterator[Flow]:
    labels = {"app": "a", "app.kubernetes.io/name": "b"}
    policy = {"kind": "NetworkPolicy", "namespace": "shop", "name": "a=b|c\\d"}
    pod = {"pod_name": "web-0", "namespace": "shop", "pod_uid": "u", "labels": labels, "zone": "z"}
    yield record()
    yield record(disposition="allow", policies=[policy], isolated_by=[], src=pod)
    yield record(disposition="audit", count=7)
    yield record(**FLOOD)
    yield record(connection={"src_ip": "fd00::1", "dest_ip": "fd00::2", "protocol": "icmpv6", "direction": "egress"})
    yield record(connection={"src_ip": "10.0.0.1", "protocol": "47", "direction": "ingress"}, dest={"node_name": "n2"})
    yield record(dialled={"ip": "10.96.0.1", "port": 80, "service": {"namespace": "a", "name": "b"}})


RECORDS: Final = list(records())


def leaves(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, member in value.items():
        if isinstance(member, dict):
            yield from leaves(member, f"{path}{name}.")
        else:
            yield f"{path}{name}", member


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_ecs_has_fields_of_the_schema_with_their_types_and_own_ones_below_one_name(number: int) -> None:
    made = orjson.loads(FORMS["ecs"](RECORDS[number]))
    types = {field: kind for kind, fields in ECS.items() for field in fields}
    for field, value in leaves(made):
        if field.startswith("kubeweir."):
            continue
        kind = types[field]
        assert isinstance(value, list) is (field in ECS_LISTS), field
        for one in value if isinstance(value, list) else [value]:
            assert isinstance(one, int if kind == "long" else str), field
            if kind == "date":
                assert datetime.fromisoformat(str(one)[:26])
            if kind == "ip":
                assert ipaddress.ip_address(one)
    assert made["event"]["kind"] == "event"
    assert made["event"]["category"] == ["network"]
    assert set(made["event"]["type"]) <= {"connection", "allowed", "denied"}
    assert made["event"]["outcome"] in {"success", "failure"}
    assert made["network"]["direction"] in {"ingress", "egress"}


def test_no_label_is_a_field_of_an_object() -> None:
    """To Elasticsearch a dot makes an object, so ``app`` and ``app.kubernetes.io/name`` would exclude each other."""
    made = orjson.loads(FORMS["ecs"](RECORDS[1]))
    assert made["kubeweir"]["source"]["labels"] == ["app=a", "app.kubernetes.io/name=b"]
    assert made["orchestrator"]["resource"]["label"] == ["app=a", "app.kubernetes.io/name=b"]
    assert not any("/" in field for field, _ in leaves(made))


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_ocsf_is_network_activity_of_the_first_packet(number: int) -> None:
    made = orjson.loads(FORMS["ocsf"](RECORDS[number]))
    assert (made["class_uid"], made["category_uid"]) == (4001, 4)
    assert made["type_uid"] == 400100 + made["activity_id"]
    assert made["time"] == (T0 * 1000) + 250
    assert ("count" in made) == (RECORDS[number].count > 1)


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_cef_is_a_line_that_a_parser_reads_back(number: int) -> None:
    line = FORMS["cef"](RECORDS[number]).decode()
    assert "\n" not in line
    head = [re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\)\|", line, maxsplit=7)]
    assert head[:4] == ["CEF:0", "kubeweir", "kubeweir", "1"]
    assert head[4] == RECORDS[number].reason
    assert 0 <= int(head[6]) <= 10
    pairs = re.findall(r"(\w+)=((?:\\.|[^=\\])*)(?=\s\w+=|$)", line.split("|", 7)[7])
    found = {key: re.sub(r"\\(.)", r"\1", value) for key, value in pairs}
    assert set(found) <= CEF
    for key in ("src", "dst"):
        assert key not in found or ipaddress.ip_address(found[key]).version == 4
    assert all(f"{key}Label" in found for key in found if re.fullmatch(r"cs\d|c6a\d", key))
    assert found["externalId"] == RECORDS[number].id
    if number == 1:
        assert found["cs1"] == "NetworkPolicy shop/a=b|c\\d"


def test_a_record_in_cef_cannot_add_a_line_or_a_field() -> None:
    made = FORMS["cef"](record(node_name="n\nCEF:0|evil act=allow", reason="a|b\r\nc")).decode()
    assert "\n" not in made
    assert "\r" not in made
    assert r"dvchost=n CEF:0|evil act\=allow" in made
    assert made.startswith(r"CEF:0|kubeweir|kubeweir|1|a\|b c|")


def test_a_sink_is_given_the_form() -> None:
    class Lines:
        def __init__(self) -> None:
            self.values: list[bytes] = []

        def write(self, values: Any) -> None:
            self.values += values

        def close(self) -> None:
            pass

    lines = Lines()
    convert = converter("ocsf")
    assert convert is not None
    FormedSink(lines, convert).write([orjson.dumps(flow(T0))])
    assert orjson.loads(lines.values[0])["class_uid"] == 4001


def test_the_time_of_a_record_can_be_read_from_every_form() -> None:
    for number, one in enumerate(RECORDS):
        assert time_ms(msgspec.json.encode(one)) == T0 * 1000 + 250
        for form, render in FORMS.items():
            assert time_ms(render(one)) == T0 * 1000 + 250, (form, number)
    assert time_ms(FORMS["cef"](record(reason="a|rt=5 |rt=6"))) == T0 * 1000 + 250


@pytest.mark.parametrize(
    "line",
    [b"", b"5", b"[]", b"{}", b"CEF:0|a|b", b"CEF:0|a|b|c|d|e|f|rt=soon", b'{"timestamp":5}', b'{"timestamp":[1]}',
     b'{"@timestamp":"yesterday"}', b'{"time":null}', b"{" * 3000, b"\xff"],
)  # fmt: skip
def test_what_has_no_time_has_none(line: bytes) -> None:
    assert time_ms(line) is None
