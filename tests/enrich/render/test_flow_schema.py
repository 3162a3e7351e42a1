"""The published schema says what records are, all of what they are, and is in the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings

from enrich.index.cluster import Change
from enrich.model import EndpointSlice
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.batch import AGGREGATED, CUT, INGRESS, Reason, Verdict
from tests.enrich.flows import CLOCK, make_batch, make_cluster, rows_strategy
from tests.schemas import described, load, produced, validator

SCHEMA = load("flow")
VALIDATOR, CLOSED = validator(SCHEMA), validator(SCHEMA, closed=True)


def a_record() -> dict[str, Any]:
    record: dict[str, Any] = orjson.loads(Enricher(make_cluster()).records(merge(make_batch({}))).values[0])
    return record


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@settings(deadline=None)
@given(rows_strategy)
def test_every_record_fits_and_has_no_key_that_is_not_described(verdicts: list[dict[str, Any]]) -> None:
    for value in Enricher(make_cluster()).records(merge(make_batch(*verdicts))).values:
        CLOSED.validate(orjson.loads(value))


def test_every_key_that_is_described_is_in_some_record() -> None:
    cluster = make_cluster(since=CLOCK)
    cluster.apply([Change("set", EndpointSlice("shop", "db-1", "u", "db", ("203.0.113.5",)))])
    enricher = Enricher(cluster)
    everything = make_batch(
        {"verdict": 2 | INGRESS, "rule": 2, "reason": Reason.DEFAULT_DENY},
        {"protocol": 1, "destination_port": 8 << 8},
        {"flags": AGGREGATED},
        {"flags": CUT, "verdict": Verdict.DENY, "reason": Reason.DEFAULT_DENY},
        {"dialled": "10.96.0.1", "dialled_port": 80},
        {"destination": "203.0.113.5"},
        {"verdict": 1 | INGRESS, "source": "203.0.113.5"},
    )
    in_doubt = make_batch(
        {"time_ns": 0, "destination": "10.0.0.77"},
        {"time_ns": 0, "source": "10.0.0.77", "verdict": 1 | INGRESS},
        clock=CLOCK - 10_000_000_000,
    )
    records = [
        orjson.loads(value) for batch in (everything, in_doubt) for value in enricher.records(merge(batch)).values
    ]
    found = {path for record in records for path in produced(record, SCHEMA)}
    assert found == set(described(SCHEMA))


def test_it_grows_by_added_keys() -> None:
    record = a_record()
    record["later"] = 1
    record["src"]["later"] = 1
    record["disposition"], record["reason"] = "shape", "quota"
    VALIDATOR.validate(record)


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_what_is_required_is_missed(key: str) -> None:
    record = a_record()
    del record[key]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("connection", "src_ip"), "10.0.0.300"),
        (("connection", "src_port"), 70000),
        (("connection", "direction"), "sideways"),
        (("connection", "protocol"), "TCP"),
        (("timestamp",), "2026-11-24T10:00:00Z"),
        (("policies",), [{"name": "x"}]),
        (("schema",), 2),
        (("id",), "9f3c"),
        (("src", "labels"), {"a": 1}),
        (("count",), -1),
    ],
)
def test_what_is_wrong_is_found(path: tuple[str, ...], value: Any) -> None:
    record = a_record()
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(record)


def test_every_reason_is_described() -> None:
    described = SCHEMA["properties"]["reason"]["description"]
    assert {reason.name.lower() for reason in Reason} <= set(described.replace(".", "").replace(",", "").split())


def test_every_property_is_described_at_every_depth() -> None:
    assert "description" in SCHEMA
    assert list(_undescribed(SCHEMA)) == []


def _undescribed(part: dict[str, Any]) -> Iterator[str]:
    for name, inner in part.get("properties", {}).items():
        if "description" not in inner:
            yield name
        yield from _undescribed(inner)
    for inner in (*part.get("$defs", {}).values(), *([part["items"]] if "items" in part else [])):
        yield from _undescribed(inner)
