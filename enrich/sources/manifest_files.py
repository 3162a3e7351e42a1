"""Reads the objects in a folder of manifests, and finds every mistake in them.

Every document of every ``.yaml``, ``.yml`` and ``.json`` file below the folder is read, and every item of a ``List`` or
of a list of one kind, such as ``NetworkPolicyList``. Each mistake is named by file, document, line and field.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from enrich.model import Name, Object
from enrich.parse.manifest import read_manifest
from enrich.parse.objects import API_VERSIONS
from enrich.parse.spelling import no_such_field
from enrich.runtime.yaml_lines import Steps, error_text, field_lines, path_text

STDIN: Final = Path("-")
"""Stands for standard input in a list of files."""
_SUFFIXES: Final = (".yaml", ".yml", ".json")
_LIST_FIELDS: Final = ("apiVersion", "kind", "metadata", "items")
_LAST_STEP: Final = re.compile(r"(?:\.[^.\[\]]*|\[[^\]]*\]|^[^.\[\]]+)$")


class ManifestError(ValueError):
    """Some documents are invalid; ``problems`` has a line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class _Document:
    """One document of a file."""

    where: str
    """File and number of the document."""
    content: Any
    lines: dict[Steps, int]

    @cached_property
    def _by_text(self) -> dict[str, int]:
        found = {}
        for steps, line in self.lines.items():
            found[path_text(steps)] = line
            # The keys of labels and annotations are in brackets, because they may have dots.
            found[f"{path_text(steps[:-1])}[{steps[-1]}]" if steps else ""] = line
        return found

    def line_of(self, field: str) -> int:
        """Return the line of a field; if it is missing, that of the field that should have it."""
        while field and field not in self._by_text:
            field = _LAST_STEP.sub("", field) if _LAST_STEP.search(field) else ""
        return self._by_text[field]

    def at(self, field: str, item: str = "") -> str:
        """Return where a field is; ``item`` is the element of a list that has it."""
        line = self.line_of(".".join(part for part in (item, field) if part))
        return f"{self.where} (line {line}){f', {item}' if item else ''}"


def read_folder(folder: Path) -> list[Object]:
    """Read every object of every file. Raises :class:`ManifestError` with every mistake."""
    if not folder.is_dir():
        # This must not count as an empty cluster, which has no policies and is open.
        raise ManifestError([f"{folder} is not a folder"])
    return _read([(file, file.relative_to(folder)) for file in manifest_files(folder)])


def read_files(files: Iterable[Path], kinds: Collection[str]) -> list[Object]:
    """Read every object of some files, and of all files below some folders; each is to be of one of the kinds. The file
    - is standard input.

    Raises :class:`ManifestError` with every mistake."""
    found: list[tuple[Path, Path]] = []
    problems = []
    for file in files:
        below = manifest_files(file) if file != STDIN and file.is_dir() else [file]
        found += [(one, Path("standard input") if one == STDIN else one) for one in below]
        if not below:
            problems.append(f"{file}: has no file that ends in {', '.join(_SUFFIXES)}")
    if problems:
        raise ManifestError(problems)
    return _read(found, kinds)


def _read(files: Iterable[tuple[Path, Path]], kinds: Collection[str] = ()) -> list[Object]:
    """Read every object of some files, each with the name that it has in messages. ``kinds``: only these may be there.

    Raises :class:`ManifestError`."""
    objects: dict[tuple[type, Name], tuple[Object, _Document, str]] = {}
    problems: list[str] = []
    for file, name in files:
        for document in _documents(file, name, problems):
            for item, content in _objects(document, "", document.content, problems):
                kind = content.get("kind") if isinstance(content, dict) else None
                if kinds and isinstance(kind, str) and kind not in kinds:
                    where = document.at("kind", item)
                    problems.append(f"{where}: kind: is {kind}, but only {', '.join(sorted(kinds))} can be read here")
                    continue
                made, mistakes = read_manifest(content)
                for mistake in mistakes:
                    problems.append(f"{document.at(mistake.field, item)}: {mistake}")
                if made is None:
                    continue
                key = (type(made), made.key)
                if key in objects:
                    _, other, place = objects[key]
                    what = f"{type(made).__name__} {made.key} is also in {other.at('', place)}"
                    problems.append(f"{document.at('', item)}: {what}")
                objects[key] = (made, document, item)
    if problems:
        raise ManifestError(problems)
    return [made for made, _, _ in objects.values()]


def manifest_files(folder: Path) -> list[Path]:
    """List the files to read. Hidden ones belong to editors; in a mounted ConfigMap they are every file a second
    time."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _documents(file: Path, name: Path, problems: list[str]) -> Iterator[_Document]:
    """Yield each document of a file."""
    try:
        content = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
    except OSError as error:
        problems.append(f"{name}: cannot be read: {error.strerror}")
        return
    if not content.strip():
        # It may be about to be filled. Until then its policies must not be forgotten.
        problems.append(f"{name}: is empty")
        return
    number = 0
    try:
        # A loader reads the whole text at once, and refuses characters that YAML does not have.
        with contextlib.closing(_Loader(content)) as loader:
            while loader.check_node():
                node = loader.get_node()
                number += 1
                if node is None:
                    continue
                lines, duplicates = field_lines(node)
                document = _Document(f"{name}, document {number}", loader.construct_document(node), lines)
                for line, steps in duplicates:
                    problems.append(f"{document.where} (line {line}): {path_text(steps)}: duplicate key {steps[-1]}")
                if document.content is not None:
                    yield document
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = error_text(error) if isinstance(error, yaml.YAMLError) else " ".join(str(error).split())
        problems.append(f"{name}: is not valid YAML: {text}")


class _Loader(yaml.CSafeLoader):
    """A loader that closes."""

    def close(self) -> None:
        self.dispose()


def _objects(document: _Document, item: str, content: Any, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the objects of a document, each with its place in the lists that it is in."""
    kind = content.get("kind") if isinstance(content, dict) else None
    element = kind[: -len("List")] if isinstance(kind, str) and kind.endswith("List") else None
    if element is None or (element and element not in API_VERSIONS):
        yield item, content
        return
    version, items = API_VERSIONS.get(element, "v1"), content.get("items")
    found = content.get("apiVersion")
    if found not in (None, version):
        problems.append(f"{document.at('apiVersion', item)}: apiVersion: {kind} must be {version}, is {found}")
    for name in content:
        if name not in _LIST_FIELDS:
            problems.append(f"{document.at(str(name), item)}: {name}: {no_such_field(str(name), _LIST_FIELDS)}")
    if not isinstance(items, list):
        problems.append(f"{document.at('items', item)}: items: {'is required' if items is None else 'must be a list'}")
        return
    # The API server leaves out kind and version of the elements of a list of one kind.
    given = {"apiVersion": version, "kind": element} if element else {}
    for index, one in enumerate(items):
        at = f"{item}.items[{index}]" if item else f"items[{index}]"
        yield from _objects(document, at, {**given, **one} if isinstance(one, dict) else one, problems)
