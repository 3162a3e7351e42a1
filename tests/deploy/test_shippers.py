"""The files of deploy/shippers, as far as they can be tested without the programs that read them.

``tests/kafka/test_elasticsearch.py`` loads the index templates into Elasticsearch. Of Vector only its language can be
run, of Fluent Bit nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import yaml
from vrl_python import VRLRuntime

from streams.forms import FORMS
from tests.schemas import ROOT, load
from tests.streams.alerts.makers import flow
from tests.streams.forms.test_forms import ECS, RECORDS, leaves

FOLDER = ROOT / "deploy" / "shippers"


def mapped(mapping: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every field that an index template maps, with its type."""
    for name, below in mapping["properties"].items():
        if "properties" in below:
            yield from mapped(below, f"{path}{name}.")
        else:
            yield path + name, below["type"]


def mappings(file: str) -> dict[str, str]:
    """The fields of an index template, which adds none by itself: a field that is added by its first value excludes
    other values."""
    template = orjson.loads((FOLDER / f"{file}.json").read_bytes())["template"]
    assert template["mappings"]["dynamic"] is False
    return dict(mapped(template["mappings"]))


def test_the_index_template_maps_every_field_of_the_record_and_labels_as_one_field_each() -> None:
    fields, schema = mappings("elasticsearch-template"), load("flow")
    described = {path: part for path, part in parts(schema, schema) if "properties" not in part}
    lists = {path for path, part in described.items() if part.get("type") == "array"}
    assert lists == {"policies", "isolated_by"}
    below = {f"{path}.{name}" for path in lists for name in described[path]["items"]["properties"]}
    assert fields.keys() == (described.keys() - lists) | below
    objects = {path for path, part in described.items() if "additionalProperties" in part}
    assert objects == {"dest.labels", "src.labels"}
    assert {path for path, kind in fields.items() if kind == "flattened"} == objects
    assert {path for path, kind in fields.items() if kind == "ip"} == {
        "connection.src_ip", "connection.dest_ip", "dialled.ip", "src.instance", "dest.instance",
    }  # fmt: skip


def test_the_index_template_of_ecs_maps_every_field_of_the_form() -> None:
    fields = mappings("elasticsearch-ecs-template")
    for record in RECORDS:
        assert {field for field, _ in leaves(orjson.loads(FORMS["ecs"](record)))} <= fields.keys()
    kinds = {"text": {"text", "keyword"}, "date": {"date_nanos"}, "ip": {"ip"}, "long": {"long"}}
    for kind, names in ECS.items():
        assert {fields[name] for name in names} <= kinds[kind]


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05.678901234Z", "1999-12-31T23:59:59.000000001Z"])
def test_the_time_of_an_event_in_vector_is_the_verdicts_to_the_nanosecond(text: str) -> None:
    vector = yaml.safe_load((FOLDER / "vector.yaml").read_text())
    record = orjson.loads(orjson.dumps({**flow(), "timestamp": text}))
    event = {**record, "topic": "kubeweir.flows"}
    made = VRLRuntime.run(vector["transforms"]["timed"]["source"], dict(event), "UTC").processed_event
    assert made.pop(vector["log_schema"]["timestamp_key"]) == text.replace("T", " ").replace("Z", " UTC")
    assert made == event, "nothing else is changed"


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
