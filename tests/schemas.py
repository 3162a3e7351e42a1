"""Helpers for tests of the published JSON Schemas: their paths, the paths of records, and closed variants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "enrich/schemas", ROOT / "streams/schemas")


def files() -> list[Path]:
    """Return the files of all published schemas."""
    return [path for folder in FOLDERS for path in sorted(folder.glob("*.schema.json"))]


def load(name: str) -> dict[str, Any]:
    """Load a schema by the first part of its file's name."""
    (path,) = [path for path in files() if path.name == f"{name}.schema.json"]
    schema: dict[str, Any] = orjson.loads(path.read_bytes())
    return schema


def validator(schema: dict[str, Any], *, closed: bool = False) -> jsonschema.Draft202012Validator:
    """Return a validator. With ``closed``, it refuses keys that the schema does not describe."""
    return jsonschema.Draft202012Validator(
        _closed(schema) if closed else schema, format_checker=jsonschema.FormatChecker()
    )


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # Schemas below if and then add conditions to an object that is described elsewhere, so they stay open.
    closed = {key: value if key in ("if", "then") else _closed(value) for key, value in schema.items()}
    if "properties" in closed and "additionalProperties" not in closed and ("type" in closed or "$ref" in closed):
        closed["additionalProperties"] = False
    return closed


def described(schema: dict[str, Any], part: dict[str, Any] | None = None, at: str = "") -> Iterator[str]:
    """Yield the path of every property; ``[]`` stands for an item of a list, ``{}`` for any key of a mapping."""
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
    """Yield the paths of all values in a record, in the form of :func:`described`."""
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
