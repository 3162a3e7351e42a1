"""The published JSON Schemas, and what to ask of them: closed, their paths, and the paths that records really have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "enrich/schemas", ROOT / "streams/schemas")


def files() -> list[Path]:
    """Every schema that is published."""
    return [path for folder in FOLDERS for path in sorted(folder.glob("*.schema.json"))]


def load(name: str) -> dict[str, Any]:
    """A schema by the first part of its file's name."""
    (path,) = [path for path in files() if path.name == f"{name}.schema.json"]
    schema: dict[str, Any] = orjson.loads(path.read_bytes())
    return schema


def validator(schema: dict[str, Any], *, closed: bool = False) -> jsonschema.Draft202012Validator:
    """``closed``: no keys are taken but those that it describes."""
    return jsonschema.Draft202012Validator(
        _closed(schema) if closed else schema, format_checker=jsonschema.FormatChecker()
    )


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # What stands under if and then adds conditions to an object that is described elsewhere.
    made = {key: value if key in ("if", "then") else _closed(value) for key, value in schema.items()}
    if "properties" in made and "additionalProperties" not in made and ("type" in made or "$ref" in made):
        made["additionalProperties"] = False
    return made


def described(schema: dict[str, Any], part: dict[str, Any] | None = None, at: str = "") -> Iterator[str]:
    """The path of every property; ``[]`` for an item, ``{}`` for a key of anybody's choice."""
    part = schema if part is None else part
    if "$ref" in part:
        target: Any = schema
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        yield from described(schema, target, at)
    for name, inner in part.get("properties", {}).items():
        yield f"{at}.{name}"
        yield from described(schema, inner, f"{at}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(part.get(key), dict):
            yield from described(schema, part[key], at + mark)


def produced(record: Any, schema: dict[str, Any], part: dict[str, Any] | None = None, at: str = "") -> Iterator[str]:
    """The paths of what is in a record, written as :func:`described` writes them."""
    part = schema if part is None else part
    while "$ref" in part:
        target: Any = schema
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = target
    if isinstance(record, list):
        for item in record:
            inner = part.get("items")
            yield from produced(item, schema, inner if isinstance(inner, dict) else {}, f"{at}[]")
    if isinstance(record, dict):
        for name, value in record.items():
            known = part.get("properties", {})
            if name in known or not isinstance(part.get("additionalProperties"), dict):
                yield f"{at}.{name}"
                yield from produced(value, schema, known.get(name, {}), f"{at}.{name}")
            else:
                yield from produced(value, schema, part["additionalProperties"], f"{at}{{}}")
