"""The published schema says what records are, all of what they are, and is in the package."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings

from enrich.enricher import Enricher
from enrich.joined import join
from enrich.records import Reason
from tests.enrich.flows import make_batch, make_cluster, rows_strategy

SCHEMA: dict[str, Any] = orjson.loads((resources.files("enrich") / "schemas/flow.schema.json").read_bytes())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def closed(schema: Any) -> Any:
    """The schema with no keys but those that it describes."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if "properties" in made and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


CLOSED = jsonschema.Draft202012Validator(closed(SCHEMA), format_checker=jsonschema.FormatChecker())


def a_record() -> dict[str, Any]:
    record: dict[str, Any] = orjson.loads(Enricher(make_cluster()).records(join(make_batch({}))).values[0])
    return record


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@settings(deadline=None)
@given(rows_strategy)
def test_every_record_fits_and_has_no_key_that_is_not_described(rows: list[dict[str, Any]]) -> None:
    for value in Enricher(make_cluster()).records(join(make_batch(*rows))).values:
        CLOSED.validate(orjson.loads(value))


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


def test_every_property_is_described_or_plain() -> None:
    assert "description" in SCHEMA
    for name, schema in SCHEMA["properties"].items():
        assert schema.get("description") or "$ref" in schema or schema.get("properties"), name
