"""Reads the cluster from a folder of manifests: for the demo, the tests, and users without a cluster.

:mod:`enrich.sources.manifest_files` says what is read. The folder is watched with inotify. A change is applied
completely or not at all: while a document is invalid, the last valid state stays in force, and
:meth:`ManifestSource.problem` names every mistake.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import structlog

from enrich.index.cluster import Cluster, group_by_kind
from enrich.model import Object
from enrich.runtime.folder import FolderWatch
from enrich.sources.manifest_documents import ManifestError, manifest_files
from enrich.sources.manifest_files import read_folder
from enrich.sources.source import SourceError
from enrich.sources.versions import UNKNOWN, Observer

log = structlog.get_logger("kubeweir.source")

_SETTLED_S = 0.05
_MAX_ATTEMPTS = 20


class ManifestSource:
    """A source that reads a folder at the start, and again whenever it changes."""

    def __init__(self, folder: Path, cluster: Cluster, observer: Observer | None = None) -> None:
        """``observer`` takes each version of an object; None: versions are not kept."""
        self._folder, self._observer = folder, observer
        self._cluster = cluster
        self._watch = FolderWatch("manifests", folder, self.reload, recursive=True)
        self._problem: str | None = None

    def start(self) -> None:
        """Read the folder and watch it. Raises :class:`SourceError` if a document is invalid."""
        try:
            objects = read_folder(self._folder)
        except ManifestError as error:
            raise SourceError(str(error)) from error
        self._replace(objects)
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

    def state_problem(self) -> str | None:
        """Return None: the files are the state."""

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
                if before:
                    self._watch.renew()
                log.error("manifests are invalid, the last valid state stays in force", problems=error.problems)
            return
        if before:
            self._watch.renew()
            log.info("manifests are valid again", folder=str(self._folder))
        self._problem = None
        if self._replace(objects):
            log.info("manifests read", folder=str(self._folder), objects=len(objects))

    def _replace(self, objects: list[Object]) -> bool:
        """Put the folder's objects into the index; return whether anything is different now."""
        grouped = group_by_kind(objects)
        is_different = self._cluster.replace_all(grouped)
        if self._observer is not None:
            for kind in self._observer.kinds:
                self._observer.listed(kind, [(made, UNKNOWN) for made in grouped[kind]])
        return is_different

    def _read_settled(self) -> list[Object]:
        """Read the folder when no write is in progress: a file that was just truncated is about to be filled."""
        for _ in range(_MAX_ATTEMPTS):
            before = _newest(self._folder)
            if time.time() - before[0] > _SETTLED_S:
                try:
                    objects = read_folder(self._folder)
                except ManifestError:
                    # A file that has just been replaced by another one cannot be read, nor is the folder complete.
                    if _newest(self._folder) == before:
                        raise
                else:
                    if _newest(self._folder) == before:
                        return objects
            self._watch.wait(_SETTLED_S)
        return read_folder(self._folder)


def _newest(folder: Path) -> tuple[float, int]:
    """Return when a file was changed last, and a hash of all files' inodes, sizes and times."""
    newest, seen = 0.0, []
    for path in manifest_files(folder, []):
        with contextlib.suppress(OSError):
            stat = path.stat()
            newest = max(newest, stat.st_mtime)
            seen.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return newest, hash(tuple(seen))
