"""The cluster as a folder of manifests: for the demo, the tests, and anyone without a cluster.

Every ``.yaml``, ``.yml`` and ``.json`` file below the folder is read, all its documents, ``kind: List`` too. The folder
is watched (inotify). A change is taken whole or not at all: while one document is wrong, the last good state stays in
force, and the problem is said, with file, document and field, until it is mended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import watchfiles
import yaml

from enrich.cluster import Cluster, group_by_kind
from enrich.fields import InvalidObjectError
from enrich.model import Name, Object
from enrich.objects import parse
from enrich.sources.source import SourceError

log = structlog.get_logger("kubeweir.source")

_SUFFIXES = (".yaml", ".yml", ".json")
_DEBOUNCE_MS = 100
"""Editors write a file in several steps."""


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
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None

    def start(self) -> None:
        """Read all of it; refuse what is wrong."""
        if not self._folder.is_dir():
            raise SourceError(f"{self._folder} is no folder of manifests")
        try:
            objects = read_folder(self._folder)
        except ManifestError as error:
            raise SourceError(str(error)) from error
        self._put(objects)
        self._thread = threading.Thread(target=self._watch, name="manifests", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def problem(self) -> str | None:
        """What is wrong with the folder now; the state in force is the last good one."""
        return self._problem

    def _put(self, objects: list[Object]) -> None:
        for kind, made in group_by_kind(objects).items():
            self._cluster.replace(kind, made)

    def _watch(self) -> None:
        for _changes in watchfiles.watch(
            self._folder, stop_event=self._stop, debounce=_DEBOUNCE_MS, step=20, raise_interrupt=False
        ):
            self.reload()

    def reload(self) -> None:
        """Read the folder again; a wrong one changes nothing but :meth:`problem`."""
        try:
            objects = read_folder(self._folder)
        except ManifestError as error:
            self._problem = str(error)
            log.error("manifests refused, the last good state stays in force", problems=error.problems)
            return
        if self._problem:
            log.info("manifests are good again", folder=str(self._folder))
        self._problem = None
        self._put(objects)
        log.info("manifests read", folder=str(self._folder), objects=len(objects))


def read_folder(folder: Path) -> list[Object]:
    """Every object that is used, of every file. Raises :class:`ManifestError` with all that is wrong."""
    objects: dict[tuple[type, Name], tuple[Object, str]] = {}
    problems: list[str] = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file()):
        for where, document in _documents(file, file.relative_to(folder), problems):
            try:
                made = parse(document)
            except InvalidObjectError as error:
                problems.append(f"{where}: {error}")
                continue
            if made is None:
                continue
            key = (type(made), made.key)
            if key in objects:
                problems.append(f"{where}: {type(made).__name__} {made.key} is also in {objects[key][1]}")
            objects[key] = (made, where)
    if problems:
        raise ManifestError(problems)
    return [made for made, _ in objects.values()]


def _documents(file: Path, name: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """The documents of a file, each with the words that say where it stands."""
    try:
        loaded = list(yaml.load_all(file.read_bytes(), yaml.CSafeLoader))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        problems.append(f"{name}: not YAML: {' '.join(str(error).split())}")
        return
    for number, document in enumerate(loaded, 1):
        where = f"{name}, document {number}"
        if document is None:
            continue
        if not isinstance(document, dict):
            problems.append(f"{where}: must be an object")
        elif document.get("kind") == "List" and isinstance(document.get("items"), list):
            yield from ((f"{where}, items[{index}]", item) for index, item in enumerate(document["items"]))
        else:
            yield where, document
