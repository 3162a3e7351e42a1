"""Reads a whole cluster from a folder of manifests, and finds every mistake in them.

A folder may only have kinds that are used here: a policy whose kind is mistyped would silently not exist.
:mod:`enrich.sources.repository` reads a folder that has other kinds, too.
"""

from __future__ import annotations

from pathlib import Path

from enrich.model import Name, Object
from enrich.parse.manifest import read_manifest
from enrich.sources.manifest_documents import (
    Document,
    ManifestError,
    Problem,
    documents,
    manifest_files,
    objects_in,
)


def read_folder(folder: Path) -> list[Object]:
    """Read every object of every file. Raises :class:`ManifestError` with every mistake."""
    check_folder(folder)
    objects: dict[tuple[type, Name], tuple[Object, Document, str]] = {}
    problems: list[Problem] = []
    for file in manifest_files(folder, problems, relative=True):
        for document in documents(file, str(file.relative_to(folder)), problems):
            for item, content in objects_in(document, problems):
                made, mistakes = read_manifest(content)
                problems += (Problem(document.at(mistake.field, item), str(mistake)) for mistake in mistakes)
                if made is None:
                    continue
                key = (type(made), made.key)
                if key in objects:
                    _, other, place = objects[key]
                    what = f"{type(made).__name__} {made.key} is also in {other.at('', place)}"
                    problems.append(Problem(document.at("", item), what))
                objects[key] = (made, document, item)
    if problems:
        raise ManifestError(problems)
    return [made for made, _, _ in objects.values()]


def check_folder(folder: Path) -> None:
    """Raise :class:`ManifestError` unless there is such a folder. Otherwise it would count as an empty cluster, which
    has no policies and is open."""
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        raise ManifestError([f"{folder} cannot be read: {error.strerror}"]) from error
    if not is_folder:
        raise ManifestError([f"{folder} is not a folder"])
