"""Records in published forms, against the schemas that the publishers made: their own files, from packages."""

from __future__ import annotations

from typing import Any

import jsonschema
import orjson
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from streams.forms import FORMS
from tests.daemons import UNPACKED
from tests.streams.forms.test_forms import RECORDS, leaves

ECS_FIELDS = UNPACKED.parent / "ecs-8.11.5.json"
"""Every field of the Elastic Common Schema with what Elastic says of it, which deploy/local/setup makes."""


@pytest.fixture(scope="module")
def network_activity() -> jsonschema.Draft202012Validator:
    """What the Open Cybersecurity Schema Framework says of the class that our records name, with their profile."""
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.2.0"))
    found = schemas.get_class_schema("network_activity", profiles=["security_control"])
    return jsonschema.Draft202012Validator(found, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_ocsf_is_what_its_schema_says(number: int, network_activity: jsonschema.Draft202012Validator) -> None:
    made = orjson.loads(FORMS["ocsf"](RECORDS[number]))
    network_activity.validate(made)
    mistakes: list[dict[str, Any]] = [{"activity_id": 17}, {"pod": "web-0"}, {"time": "now"}, {"metadata": {}}]
    for wrong in mistakes:
        assert not network_activity.is_valid({**made, **wrong}), "the schema sees mistakes"


@pytest.fixture(scope="module")
def ecs() -> dict[str, Any]:
    """The fields of the Elastic Common Schema."""
    if not ECS_FIELDS.exists():
        pytest.skip("needs npm, from which deploy/local/setup gets the Elastic Common Schema")
    fields: dict[str, Any] = orjson.loads(ECS_FIELDS.read_bytes())
    return fields


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_ecs_has_fields_and_values_of_its_schema(number: int, ecs: dict[str, Any]) -> None:
    made = orjson.loads(FORMS["ecs"](RECORDS[number]))
    assert made["ecs"]["version"].rpartition(".")[0] == "8.11"
    found = {field: value for field, value in leaves(made) if not field.startswith("kubeweir.")}
    assert not {field for field, about in ecs.items() if about.get("required")} - found.keys()
    for field, value in found.items():
        about = ecs[field]
        assert isinstance(value, list) is ("array" in about["normalize"]), field
        values = value if isinstance(value, list) else [value]
        kinds: type | tuple[type, ...] = int if about["type"] in {"long", "integer"} else str
        assert all(isinstance(one, kinds) for one in values), field
        for known in (about.get("expected_values"), [one["name"] for one in about.get("allowed_values", ())]):
            assert not known or set(values) <= set(known), field
    network = next(one for one in ecs["event.category"]["allowed_values"] if one["name"] == "network")
    assert set(made["event"]["type"]) <= set(network["expected_event_types"])
