"""The cluster as a folder of manifests: for the demo, the tests, and anyone without a cluster.

Every ``.yaml``, ``.yml`` and ``.json`` file below the folder is read, all its documents, ``kind: List`` too. The folder
is watched (inotify). A change is taken whole or not at all: while one document is wrong, the last good state stays in
force, and the problem is said, with file, document and field, until it is mended.
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
_TRIES = 20


class ManifestError(ValueError):
    """Some documents are wrong; ``problems`` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ManifestSource:
    """Reads a folder at the start and whenever it changes."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self._watch = FolderWatch("manifests", folder, self.reload, whole=True)
        self._problem: str | None = None

    def start(self) -> None:
        """Read all of it; refuse what is wrong."""
        if not self._folder.is_dir():
            raise SourceError(f"{self._folder} is no folder of manifests")
        try:
            objects = read_folder(self._folder)
        except ManifestError as error:
            raise SourceError(str(error)) from error
        self._cluster.replace_all(group_by_kind(objects))
        self._watch.start()

    def stop(self) -> None:
        """End the watch."""
        self._watch.stop()

    def problem(self) -> str | None:
        """What is wrong with the folder now; the state in force is the last good one."""
        return self._watch.problem or self._problem

    def age_s(self) -> dict[str, float]:
        """Files do not fall silent."""
        return {}

    def refused(self) -> list[str]:
        """None: a folder is taken whole or not at all."""
        return []

    def synced_until_ns(self) -> int:
        """Nothing is ever on its way: what the folder says, it says now."""
        return 1 << 62

    def reload(self) -> None:
        """Read the folder again; a wrong one changes nothing but :meth:`problem`."""
        before = self._problem
        try:
            objects = self._read_settled()
        except ManifestError as error:
            self._problem = str(error)
            if self._problem != before:
                log.error("manifests refused, the last good state stays in force", problems=error.problems)
            return
        if before:
            log.info("manifests are good again", folder=str(self._folder))
        self._problem = None
        if self._cluster.replace_all(group_by_kind(objects)):
            log.info("manifests read", folder=str(self._folder), objects=len(objects))

    def _read_settled(self) -> list[Object]:
        """The folder when nobody writes to it: a file that was just emptied is about to be filled."""
        for _ in range(_TRIES):
            before = _newest(self._folder)
            if time.time() - before[0] > _SETTLED_S:
                objects = read_folder(self._folder)
                if _newest(self._folder) == before:
                    return objects
            self._watch.wait(_SETTLED_S)
        return read_folder(self._folder)


def _newest(folder: Path) -> tuple[float, int]:
    """When a file was changed last, and a sum that is another after a change."""
    newest, seen = 0.0, []
    for path in _files(folder):
        with contextlib.suppress(OSError):
            stat = path.stat()
            newest = max(newest, stat.st_mtime)
            seen.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return newest, hash(tuple(seen))


def read_folder(folder: Path) -> list[Object]:
    """Every object that is used, of every file. Raises :class:`ManifestError` with all that is wrong."""
    if not folder.is_dir():
        # Not an empty cluster: without its policies everything would be open.
        raise ManifestError([f"{folder} is no folder"])
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
                # A policy whose kind is misspelt would be no policy, in silence.
                kind = f"{document['apiVersion']} {document['kind']}"
                problems.append(f"{where}: kind: {kind} is none of {READ}: keep it out of this folder")
                continue
            key = (type(made), made.key)
            if key in objects:
                problems.append(f"{where}: {type(made).__name__} {made.key} is also in {objects[key][1]}")
            objects[key] = (made, where)
    if problems:
        raise ManifestError(problems)
    return [made for made, _ in objects.values()]


def _files(folder: Path) -> list[Path]:
    """Hidden files are editors' and, in a mounted ConfigMap, the second sight of every file."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _documents(file: Path, name: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """The documents of a file, each with the words that say where it stands."""
    try:
        content = file.read_bytes()
        if not content.strip():
            # Perhaps somebody is about to fill it; until then its policies are not to be forgotten.
            problems.append(f"{name}: is empty")
            return
        loaded = list(_load(content))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        problems.append(f"{name}: not YAML: {' '.join(str(error).split())}")
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
    """YAML as the API server reads it: a key that is there twice is a mistake, not an overwriting."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(content: bytes) -> Iterator[tuple[int, Any]]:
    """Each document with the number of its first line."""
    loader = _Loader(content)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()
