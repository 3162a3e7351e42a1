"""The flow record as a value: it has every key of the schema, and neither way of making it loses or changes any."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.batch import Reason
from enrich.wire.flow import Decision, Flow, decode_flow, sides
from tests.enrich.flows import make_batch, make_cluster, rows_strategy
from tests.schemas import load

SCHEMA = load("flow")


def make_values(*verdicts: dict[str, Any]) -> list[bytes]:
    return list(Enricher(make_cluster()).records(merge(make_batch(*verdicts))).values)


def make_flow(**verdict: Any) -> Flow:
    return decode_flow(make_values(verdict)[0])


def test_it_has_the_keys_of_the_schema() -> None:
    definitions = msgspec.json.schema(Flow)["$defs"]
    assert set(definitions["Flow"]["properties"]) == set(SCHEMA["properties"])
    assert set(definitions["Flow"]["required"]) == set(SCHEMA["required"])
    assert set(definitions["End"]["properties"]) == set(SCHEMA["$defs"]["end"]["properties"])
    for name in ("connection", "icmp", "dialled"):
        part, described = definitions[name.capitalize()], SCHEMA["properties"][name]
        assert set(part["properties"]) == set(described["properties"])
        assert set(part["required"]) == set(described["required"])


def test_a_condition_reads_a_decision_as_it_reads_a_record() -> None:
    assert all(hasattr(Flow, name) for name in Decision.__struct_fields__)


@settings(deadline=None)
@given(rows_strategy)
def test_a_record_read_and_written_is_the_same_bytes(verdicts: list[dict[str, Any]]) -> None:
    for value in make_values(*verdicts):
        assert msgspec.json.encode(decode_flow(value)) == value


@settings(deadline=None)
@given(rows_strategy)
def test_a_record_made_from_the_columns_is_the_one_that_its_json_says(verdicts: list[dict[str, Any]]) -> None:
    records = Enricher(make_cluster()).records(merge(make_batch(*verdicts), make_batch({}, node="n2", ring="other")))
    assert records.columns is not None
    for place, value in enumerate(records.values):
        assert records.columns.flow(place) == decode_flow(value)


def test_keys_that_are_not_known_are_ignored() -> None:
    [value] = make_values({})
    record = orjson.loads(value)
    later = {**record, "later": {"a": [1]}, "src": {**record["src"], "later": 1}}
    assert decode_flow(orjson.dumps(later)) == decode_flow(value)


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_a_required_key_that_is_missing_is_an_error(key: str) -> None:
    record = orjson.loads(make_values({})[0])
    del record[key]
    with pytest.raises(ValueError, match=f"missing required field `{key}`"):
        decode_flow(orjson.dumps(record))


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":' * 100_000])
def test_bytes_that_are_not_a_record_are_an_error(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_flow(junk)


def test_subject_and_peer_follow_the_direction() -> None:
    outward, inward = make_flow(), make_flow(verdict=0x81, source="10.0.0.2", destination="10.0.0.1")
    assert (outward.subject.pod, outward.peer.pod) == ("shop/web-1", "shop/api-1")
    assert (inward.subject.pod, inward.peer.pod) == ("shop/web-1", "shop/api-1")
    assert (inward.src, inward.dest) == (inward.peer, inward.subject)


@pytest.mark.parametrize(
    ("role", "direction", "meant"),
    [
        ("src", "ingress", ("src",)),
        ("dest", "ingress", ("dest",)),
        ("subject", "ingress", ("dest",)),
        ("subject", "egress", ("src",)),
        ("peer", "ingress", ("src",)),
        ("peer", "egress", ("dest",)),
        ("either", "egress", ("src", "dest")),
    ],
)
def test_sides(role: str, direction: str, meant: tuple[str, ...]) -> None:
    assert sides(role, direction) == meant


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        ({}, "shop/api-1"),
        ({"destination": "203.0.113.9"}, "203.0.113.9"),
        ({"destination": "192.0.2.2"}, "192.0.2.2"),
        ({"destination": "", "reason": Reason.NODE}, "n1"),
        ({"destination": ""}, "many"),
        ({"flags": 1}, "many"),
    ],
)
def test_an_end_in_words(verdict: dict[str, Any], text: str) -> None:
    assert make_flow(**verdict).text("dest", nothing="many") == text
    assert make_flow(**verdict).text("src") == "shop/web-1"


def test_ports_are_the_destination_and_the_one_that_was_dialled() -> None:
    assert make_flow().ports == (8080,)
    assert make_flow(dialled="10.96.0.1", dialled_port=80).ports == (8080, 80)
    assert make_flow(protocol=1).ports == ()
