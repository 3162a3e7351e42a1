"""The files of deploy/shippers that no test can run: what they name exists in a record."""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from tests.schemas import ROOT, load

FOLDER = ROOT / "deploy" / "shippers"


def test_the_index_template_maps_fields_of_the_record_and_labels_as_one_field_each() -> None:
    properties = orjson.loads((FOLDER / "elasticsearch-template.json").read_bytes())["template"]["mappings"][
        "properties"
    ]
    schema = load("flow")
    for name, mapping in properties.items():
        described = resolve(schema, schema["properties"][name])
        for below in mapping.get("properties", {}):
            assert below in described["properties"], f"{name}.{below}"
    objects = [
        path for path, part in parts(schema, schema) if "additionalProperties" in part and "properties" not in part
    ]
    assert sorted(objects) == ["dest.labels", "src.labels"]
    for path in objects:
        side, _, name = path.partition(".")
        assert properties[side]["properties"][name] == {"type": "flattened"}


def test_what_is_read_from_kafka_is_the_record_itself() -> None:
    fluent = yaml.safe_load((FOLDER / "fluent-bit.yaml").read_text())["pipeline"]
    lift, rest = fluent["filters"]
    assert (lift["operation"], lift["nested_under"]) == ("lift", "payload")
    assert not set(rest["remove_key"]) & set(load("flow")["properties"])
    vector = yaml.safe_load((FOLDER / "vector.yaml").read_text())
    assert vector["log_schema"]["timestamp_key"] not in load("flow")["properties"]
    assert [one["inputs"] for one in vector["sinks"].values()] == [["timed"]]


def resolve(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return found


def parts(schema: dict[str, Any], part: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, below in part.get("properties", {}).items():
        resolved = resolve(schema, below)
        found += [(path + name, resolved), *parts(schema, resolved, f"{path}{name}.")]
    return found
