"""Parses an object that a person has written: strictly, and with every mistake at once.

What the API server stores is read in another way; see :mod:`enrich.parse.cursor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from enrich.model import Object
from enrich.parse.cursor import InvalidObjectError, UnknownFieldError
from enrich.parse.known_fields import unknown_fields
from enrich.parse.metadata import MODE
from enrich.parse.objects import API_VERSIONS, READ, parse
from enrich.parse.spelling import nearest

_OWN_PREFIX: Final = MODE.partition("/")[0] + "/"


def read_manifest(document: Any) -> tuple[Object | None, list[InvalidObjectError]]:
    """Return the object, and every mistake in it. With a mistake the object is None."""
    if not isinstance(document, Mapping):
        return None, [InvalidObjectError("", "must be an object")]
    mistakes: list[InvalidObjectError] = []
    made = None
    try:
        made = parse(document, mistakes, exhaustive=True)
    except InvalidObjectError as error:
        mistakes.append(error)
    kind = document.get("kind")
    if made is None and not mistakes:
        # A policy whose kind is mistyped would silently not exist.
        mistakes.append(_unused_kind(str(document.get("apiVersion")), str(kind)))
    if isinstance(kind, str):
        unknown = [*unknown_fields(document, kind), *_unknown_annotations(document)]
        mistakes = [*unknown, *_without_consequences(mistakes, unknown)]
    by_field: dict[str, InvalidObjectError] = {}
    for mistake in mistakes:
        by_field.setdefault(mistake.field, mistake)
    return None if by_field else made, list(by_field.values())


def _without_consequences(
    mistakes: list[InvalidObjectError], unknown: list[InvalidObjectError]
) -> list[InvalidObjectError]:
    """Leave out what an unknown field in the same object explains: a peer whose only field is mistyped has no field."""
    explained = {mistake.field.rpartition(".")[0] for mistake in unknown}
    return [mistake for mistake in mistakes if mistake.field not in explained]


def _unused_kind(version: str, kind: str) -> InvalidObjectError:
    expected = API_VERSIONS.get(kind)
    if expected is not None:
        is_other_version = version.rpartition("/")[0] == expected.rpartition("/")[0]
        near = f"; did you mean apiVersion {expected}?" if is_other_version or nearest(version, [expected]) else ""
    else:
        found = nearest(kind, API_VERSIONS)
        near = f"; did you mean {found}?" if found else ""
    where = f"move it out of this folder, which may have only {READ}"
    return InvalidObjectError("kind", f"{version} {kind} is not used here{near or f'; {where}'}")


def _unknown_annotations(document: Mapping[str, Any]) -> list[InvalidObjectError]:
    """Return an error for each annotation with the prefix of this program that it does not read."""
    metadata = document.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    if not isinstance(annotations, Mapping):
        return []
    return [
        UnknownFieldError(f"metadata.annotations[{name}]", f"there is no such annotation; did you mean {MODE}?")
        for name in annotations
        if str(name).startswith(_OWN_PREFIX) and name != MODE
    ]
