"""Finds the documents in files of manifests, and the objects in those, each with its place: file, document, line, item
of a list.

Every document of every ``.yaml``, ``.yml`` and ``.json`` file below a folder is read, and every item of a ``List`` or
of a list of one kind, such as ``NetworkPolicyList``. :mod:`enrich.sources.manifest_files` reads a whole cluster of
them, :mod:`enrich.sources.repository` what a repository delivers into one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from enrich.parse.objects import API_VERSIONS
from enrich.parse.spelling import no_such_field
from enrich.runtime.yaml_lines import Steps, error_text, expanded_size, field_lines, path_text

STDIN: Final = Path("-")
"""Stands for standard input in a list of files."""
SUFFIXES: Final = (".yaml", ".yml", ".json")
_LIST_FIELDS: Final = ("apiVersion", "kind", "metadata", "items")
_TEMPLATE_HINT: Final = ". It looks like a template of Helm: render it first, with `helm template`"
_MAX_BYTES: Final = 32 << 20
"""A larger file is not read: an object of the API has at most a few MiB, and the text of a file takes thirty times its
size while it is read."""
_MAX_VALUES: Final = 1_000_000
"""So many values a document may have, when what its aliases stand for is counted each time."""
_MAX_DIGITS: Final = 256
"""So long a number may be. Numbers of the API have 64 bits; Python prints at most 4,300 digits."""
_LAST_STEP: Final = re.compile(r"(?:\.[^.\[\]]*|\[[^\]]*\]|^[^.\[\]]+)$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is in a file."""

    file: str
    document: int = 0
    """Number of the document, from 1 on; 0: the whole file."""
    line: int = 0
    item: str = ""
    """The element of a list that has it."""

    @property
    def file_and_line(self) -> str:
        """The file and the line, as editors and CI systems understand them."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        if not self.document:
            return self.file
        return f"{self.file}, document {self.document} (line {self.line}){f', {self.item}' if self.item else ''}"


Sort = Literal["unreadable", "invalid", "unknown field", "duplicate"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake in a manifest, or a file that cannot be read."""

    place: Place
    text: str
    sort: Sort = "invalid"
    namespace: str | None = None
    """The namespace whose object it is about, empty for an object of the whole cluster; None: not known."""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class ManifestError(ValueError):
    """Some documents are invalid; ``problems`` has a line for each mistake."""

    def __init__(self, problems: Iterable[str | Problem]) -> None:
        self.problems = list(map(str, problems))
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    file: str
    number: int
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

    def at(self, field: str, item: str = "") -> Place:
        """Return where a field is; ``item`` is the element of a list that has it."""
        line = self.line_of(".".join(part for part in (item, field) if part))
        return Place(self.file, self.number, line, item)


def manifest_files(
    folder: Path, problems: list[Problem], names: Collection[str] = (), *, relative: bool = False
) -> list[Path]:
    """List the files to read, and those of some names. What cannot be read, a folder or a file, is a problem, because
    any policy may be in it. ``relative``: problems name it as it is called below ``folder``.

    Hidden files and folders belong to editors; in a mounted ConfigMap they are every file a second time. Links to
    folders are not followed."""
    found = []

    def refuse(path: Path, error: OSError) -> None:
        name = str(path.relative_to(folder)) if relative and path != folder else str(path)
        problems.append(Problem(Place(name), f"cannot be read: {error.strerror}", "unreadable"))

    for top, folders, files in os.walk(folder, onerror=lambda error: refuse(Path(error.filename), error)):
        folders[:] = (name for name in folders if not name.startswith("."))
        for path in (Path(top, name) for name in files if not name.startswith(".")):
            if path.suffix in SUFFIXES or path.name in names:
                try:
                    _check_file(path)
                except OSError as error:
                    refuse(path, error)
                else:
                    found.append(path)
    return sorted(found)


def _check_file(path: Path) -> None:
    """Raise OSError unless this is a file, or a link to one. A FIFO could never be read to its end.

    A file that has just been deleted is an error, too: perhaps the whole folder is being deleted, and its policies must
    stay in force."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FileNotFoundError(error.errno, f"it is a link to {path.readlink()}, which does not exist") from error
        raise
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is neither a file nor a folder")


def documents(file: Path, name: str, problems: list[Problem]) -> Iterator[Document]:
    """Yield each document of a file. ``name`` is what messages call it."""
    try:
        content = _content(file)
    except OSError as error:
        problems.append(Problem(Place(name), f"cannot be read: {error.strerror}", "unreadable"))
        return
    if not content.strip() or len(content) > _MAX_BYTES:
        # An empty one may be about to be filled. Until then its policies must not be forgotten.
        text = f"is larger than {_MAX_BYTES >> 20} MiB, and is not read" if content.strip() else "is empty"
        problems.append(Problem(Place(name), text, "unreadable"))
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
                if expanded_size(node) > _MAX_VALUES:
                    raise ValueError(f"document {number}: its aliases stand for more than {_MAX_VALUES:,} values")  # noqa: TRY301 - as all that is wrong with the text
                lines, duplicates = field_lines(node)
                document = Document(name, number, loader.construct_document(node), lines)
                for line, steps in duplicates:
                    text = f"{path_text(steps)}: duplicate key {steps[-1]}"
                    problems.append(Problem(Place(name, number, line), text, "duplicate"))
                if document.content is not None:
                    yield document
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = error_text(error) if isinstance(error, yaml.YAMLError) else " ".join(str(error).split())
        hint = _TEMPLATE_HINT if b"{{" in content else ""
        problems.append(Problem(Place(name), f"is not valid YAML: {text}{hint}", "unreadable"))


def _content(file: Path) -> bytes:
    """Return what is in a file, up to one byte more than may be in it. Raises OSError."""
    if file == STDIN:
        return sys.stdin.buffer.read(_MAX_BYTES + 1)
    with file.open("rb") as opened:
        return opened.read(_MAX_BYTES + 1)


class _Loader(yaml.CSafeLoader):
    """A loader that closes, and that refuses numbers which Python cannot print or takes minutes to read, as of base
    sixty (``1:1:1...``)."""

    def close(self) -> None:
        self.dispose()

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return an integer. Raises ValueError."""
        _check_digits(node)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Return a number. Raises ValueError."""
        _check_digits(node)
        return super().construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _check_digits(node: yaml.ScalarNode) -> None:
    if len(node.value) > _MAX_DIGITS:
        raise ValueError(f"line {node.start_mark.line + 1}: a number has more than {_MAX_DIGITS} characters")


def objects_in(
    document: Document, problems: list[Problem], versions: Mapping[str, str] = API_VERSIONS
) -> Iterator[tuple[str, Any]]:
    """Yield the objects of a document, each with its place in the lists that it is in. ``versions``: the kinds whose
    lists are read, with the version of each."""
    yield from _objects(document, "", document.content, problems, versions)


def _objects(
    document: Document, item: str, content: Any, problems: list[Problem], versions: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    kind = content.get("kind") if isinstance(content, dict) else None
    element = kind[: -len("List")] if isinstance(kind, str) and kind.endswith("List") else None
    if element is None or (element and element not in versions):
        yield item, content
        return
    version, items = versions.get(element, "v1"), content.get("items")

    def refuse(field: str, text: str) -> None:
        problems.append(Problem(document.at(field, item), f"{field}: {text}"))

    found = content.get("apiVersion")
    if found not in (None, version):
        refuse("apiVersion", f"{kind} must be {version}, is {found}")
    for name in content:
        if name not in _LIST_FIELDS:
            refuse(str(name), no_such_field(str(name), _LIST_FIELDS))
    if not isinstance(items, list):
        refuse("items", "is required" if items is None else "must be a list")
        return
    # The API server leaves out kind and version of the elements of a list of one kind.
    given = {"apiVersion": version, "kind": element} if element else {}
    for index, one in enumerate(items):
        at = f"{item}.items[{index}]" if item else f"items[{index}]"
        yield from _objects(document, at, {**given, **one} if isinstance(one, dict) else one, problems, versions)
