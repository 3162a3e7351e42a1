"""Reads the cluster from a folder of manifests: for the demo, the tests, and users without a cluster.

Every document of every ``.yaml``, ``.yml`` and ``.json`` file below the folder is read, and every item of a ``List``.
The folder is watched with inotify. A change is applied completely or not at all: while a document is invalid, the last
valid state stays in force, and :meth:`ManifestSource.problem` names the file, the document and the field.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import yaml

from enrich.index.cluster import Cluster, group_by_kind
from enrich.model import Name, Object
from enrich.parse.cursor import InvalidObjectError
from enrich.parse.objects import READ, parse
from enrich.runtime.folder import FolderWatch
from enrich.sources.source import SourceError

log = structlog.get_logger("kubeweir.source")

_SUFFIXES = (".yaml", ".yml", ".json")
_SETTLED_S = 0.05
_MAX_ATTEMPTS = 20


class ManifestError(ValueError):
    """Some documents are invalid; ``problems`` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ManifestSource:
    """A source that reads a folder at the start, and again whenever it changes."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self._watch = FolderWatch("manifests", folder, self.reload, recursive=True)
        self._problem: str | None = None

    def start(self) -> None:
        """Read the folder and watch it. Raises :class:`SourceError` if a document is invalid."""
        if not self._folder.is_dir():
            raise SourceError(f"{self._folder} is not a folder, so no manifests can be read from it")
        try:
            objects = read_folder(self._folder)
        except ManifestError as error:
            raise SourceError(str(error)) from error
        self._cluster.replace_all(group_by_kind(objects))
        self._watch.start()

    def stop(self) -> None:
        """Stop the watch."""
        self._watch.stop()

    def problem(self) -> str | None:
        """Say what is invalid in the folder now; the last valid state stays in force."""
        return self._watch.problem or self._problem

    def age_s(self) -> dict[str, float]:
        """Return nothing: a folder cannot fall silent."""
        return {}

    def refused(self) -> list[str]:
        """Return nothing: a folder is applied completely or not at all."""
        return []

    def kept(self) -> dict[str, str]:
        """Return nothing: a policy whose file is deleted was deleted on purpose."""
        return {}

    def synced_until_ns(self) -> int:
        """Return a moment in the far future: no change of a folder is ever still on its way."""
        return 1 << 62

    def reload(self) -> None:
        """Read the folder again. If it is invalid, only :meth:`problem` changes."""
        before = self._problem
        try:
            objects = self._read_settled()
        except ManifestError as error:
            self._problem = str(error)
            if self._problem != before:
                log.error("manifests are invalid, the last valid state stays in force", problems=error.problems)
            return
        if before:
            log.info("manifests are valid again", folder=str(self._folder))
        self._problem = None
        if self._cluster.replace_all(group_by_kind(objects)):
            log.info("manifests read", folder=str(self._folder), objects=len(objects))

    def _read_settled(self) -> list[Object]:
        """Read the folder when no write is in progress: a file that was just truncated is about to be filled."""
        for _ in range(_MAX_ATTEMPTS):
            before = _newest(self._folder)
            if time.time() - before[0] > _SETTLED_S:
                objects = read_folder(self._folder)
                if _newest(self._folder) == before:
                    return objects
            self._watch.wait(_SETTLED_S)
        return read_folder(self._folder)


def _newest(folder: Path) -> tuple[float, int]:
    """Return when a file was changed last, and a hash of all files' inodes, sizes and times."""
    newest, seen = 0.0, []
    for path in _files(folder):
        with contextlib.suppress(OSError):
            stat = path.stat()
            newest = max(newest, stat.st_mtime)
            seen.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return newest, hash(tuple(seen))


def read_folder(folder: Path) -> list[Object]:
    """Read every object of every file. Raises :class:`ManifestError` with every mistake."""
    if not folder.is_dir():
        # This must not count as an empty cluster, which has no policies and is open.
        raise ManifestError([f"{folder} is not a folder"])
    objects: dict[tuple[type, Name], tuple[Object, str]] = {}
    problems: list[str] = []
    for file in _files(folder):
        for where, document in _documents(file, file.relative_to(folder), problems):
            try:
                made = parse(document)
            except InvalidObjectError as error:
                problems.append(f"{where}: {error}")
                continue
            if made is None:
                # A policy whose kind is misspelt would silently not exist.
                kind = f"{document['apiVersion']} {document['kind']}"
                problems.append(
                    f"{where}: kind: {kind} is not used here; move it out of this folder, which may have only {READ}"
                )
                continue
            key = (type(made), made.key)
            if key in objects:
                problems.append(f"{where}: {type(made).__name__} {made.key} is also in {objects[key][1]}")
            objects[key] = (made, where)
    if problems:
        raise ManifestError(problems)
    return [made for made, _ in objects.values()]


def _files(folder: Path) -> list[Path]:
    """List the files to read. Hidden ones belong to editors; in a mounted ConfigMap they are every file a second
    time."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _documents(file: Path, name: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield each document of a file with a text that says where it is."""
    try:
        content = file.read_bytes()
        if not content.strip():
            # It may be about to be filled. Until then its policies must not be forgotten.
            problems.append(f"{name}: is empty")
            return
        loaded = list(_load(content))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        problems.append(f"{name}: is not valid YAML: {' '.join(str(error).split())}")
        return
    for number, (line, document) in enumerate(loaded, 1):
        where = f"{name}, document {number} (line {line})"
        if document is None:
            continue
        if not isinstance(document, dict):
            problems.append(f"{where}: must be an object")
        elif document.get("kind") == "List" and isinstance(document.get("items"), list):
            yield from ((f"{where}, items[{index}]", item) for index, item in enumerate(document["items"]))
        else:
            yield where, document


class _Loader(yaml.CSafeLoader):
    """Loads YAML as the API server does: a duplicate key is a mistake, and does not overwrite the first one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value}", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield each document with the number of its first line."""
    loader = _Loader(content)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()
