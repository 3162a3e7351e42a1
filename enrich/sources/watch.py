"""Keeps one kind of object in the index current, by list and watch on a thread of its own.

THEORY OF OPERATION

1. *List.* The watch asks for a stream that begins with every object (WatchList). The server sends an ADDED event for
   each, then a bookmark annotated ``k8s.io/initial-events-end``. Only then does the list replace the kind in the index,
   at once. A server without WatchList answers 400, 422 or 500; then the list is read in pages of 500.
2. *Watch.* The same stream continues with changes: ADDED, MODIFIED, DELETED. Each event carries the object's resource
   version, say 81234. The watch remembers the last one; versions are opaque and only ever sent back.
3. *Resume.* The server ends a stream after about five minutes. The next one starts at once from 81234, and misses
   nothing. Bookmarks move the version forward while nothing changes, so that it does not grow too old.
4. *Start over.* If the version is too old nevertheless (410 Gone, as a status or an event), the kind is listed again.
5. *Back off.* After any other error the watch waits 0.5 s, then 1, 2, ... up to 30 s, with jitter. Meanwhile the index
   stays in service as it is, and :attr:`Watch.problem` says why it may be stale.
6. *Silence.* A server sends a bookmark a minute. A connection that is silent for 150 s is replaced by a new one: the
   server may be gone without having closed it.

:meth:`Watch.synced_until_ns` says until when the index is current. Say a read has waited since 12:00:05.000 and it is
12:00:05.300 now: everything sent until now has been read, so it answers now less half a millisecond. Just after a
resume it takes a full second of waiting to say so, because the server may still be looking for what happened since.

A kind whose CustomResourceDefinition is not installed counts as empty (:mod:`enrich.sources.definition`).
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import orjson
import structlog
import urllib3

from enrich.index.cluster import Change
from enrich.model import Object
from enrich.sources.client import AnswerError, Client
from enrich.sources.connection import Connection
from enrich.sources.definition import wait_for_definition
from enrich.sources.gc_pause import gc_paused
from enrich.sources.messages import (
    METADATA_ONLY,
    AbsentError,
    GoneError,
    decode_event,
    decode_page,
    error_of,
    in_words,
    watch_query,
)
from enrich.sources.resources import Index, Reader, Resource

log = structlog.get_logger("kubeweir.source")

_PAGE: Final = 500
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0
_SHORT_S: Final = 1.0
"""A stream that ends sooner counts as a failure: the next one waits for the backoff."""
_SILENCE_S: Final = 150.0
_LIST_SILENCE_S: Final = 60.0
_SETS: Final = ("ADDED", "MODIFIED")
_INITIAL_END: Final = "k8s.io/initial-events-end"
_NO_WATCH_LIST: Final = frozenset({400, 422, 500})
"""Invalid where the feature is off or unknown; 500 where etcd is too old for it."""


class Watch:
    """Keeps one kind of object in the index current."""

    def __init__(self, client: Client, resource: Resource, index: Index) -> None:
        self.resource = resource
        self.problem: str | None = f"{resource.kind} not listed yet"
        """Why the kind may be stale or missing; None if it is current."""
        self.thread = threading.Thread(target=self._run, name=f"watch-{resource.kind}", daemon=True)
        self._index = index
        self._connection = Connection(client)
        self._progress = self._connection.progress
        self._reader = Reader(resource)
        self._version = ""
        self._by_pages = False
        self._initial: list[Object] | None = None
        """The objects of a list that is not complete yet; None while changes are followed."""

    @property
    def refused(self) -> set[str]:
        """The names of objects that cannot be parsed."""
        return self._reader.refused

    @property
    def heard(self) -> float:
        """When the server last sent anything, by the monotonic clock."""
        return self._connection.heard

    def stop(self) -> None:
        """End the thread, even while it waits for the server."""
        self._connection.stop()

    def synced_until_ns(self) -> int:
        """Return the moment of the wall clock before which everything published is in the index; 0: there is none."""
        return self._progress.synced_until_ns()

    def _run(self) -> None:
        failures = 0
        stopping = self._connection.stopping
        while not stopping.is_set():
            began = time.monotonic()
            failed = False
            try:
                failed = not self._attempt()
            except GoneError:
                self._version = ""
                log.info("watch is too old, relisting", kind=self.resource.kind)
            except (AnswerError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                failed = True
                self._report(error)
            except Exception as error:
                failed = True
                log.exception("watch failed unexpectedly", kind=self.resource.kind)
                self.problem = f"{self.resource.kind}: {error!r}"
            if self.heard >= began:
                failures = 0
            if failed or time.monotonic() - began < _SHORT_S:
                failures += 1
                backoff = min(_FIRST_BACKOFF_S * 2 ** (failures - 1), _MAX_BACKOFF_S)
                stopping.wait(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load

    def _attempt(self) -> bool:
        """Follow the kind, or wait for its definition. False: the server is about to serve it, and does not yet."""
        try:
            self._list_or_follow()
        except AbsentError:
            self._connection.heard = time.monotonic()
            return wait_for_definition(self._connection, self.resource, self._set_absent, _SILENCE_S)
        return True

    def _report(self, error: Exception) -> None:
        if not self._connection.stopping.is_set():
            self.problem = f"{self.resource.kind}: {in_words(error)}"
            log.warning("watch failed, retrying", kind=self.resource.kind, error=in_words(error))

    # --- lists

    def _list_or_follow(self) -> None:
        """Follow from the last version; without one, list first. Raises the exception that ended it."""
        if not self._version:
            if not self._by_pages and self._watch_list():
                return
            self._by_pages = False
            with gc_paused():
                self._version = self._list_pages()
        self._follow({"resourceVersion": self._version})

    def _watch_list(self) -> bool:
        """List and follow by one stream; False if the server cannot."""
        self._initial = []
        self._reader.begin()
        try:
            with gc_paused() as pause:
                self._follow({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, pause)
        except AnswerError as error:
            if self._version or error.status not in _NO_WATCH_LIST:
                raise
            log.info("no WatchList here, listing in pages", kind=self.resource.kind, status=error.status)
            return False
        finally:
            # A list that broke off is retried in pages: the stream may have been too long for this server.
            self._by_pages = bool(self._initial)
            self._initial = None
        return True

    def _list_pages(self) -> str:
        """List in pages, replace the kind in the index, and return the list's version."""
        objects: list[Object] = []
        query = {"limit": str(_PAGE)}
        self._reader.begin()
        while True:
            with self._get(query, _LIST_SILENCE_S) as response:
                page = decode_page(response.read())
            objects += [made for item in page.items or () if (made := self._reader.read(item)[1]) is not None]
            if not page.metadata.token:
                break
            query["continue"] = page.metadata.token
        self._complete(objects)
        return page.metadata.version

    def _complete(self, objects: list[Object]) -> None:
        self._index.replace(self.resource, objects, self._progress.synced_ns)
        log.info("listed", kind=self.resource.kind, objects=len(objects))

    # --- the stream

    def _follow(self, query: dict[str, str], pause: contextlib.ExitStack | None = None) -> None:
        """Apply events until the stream ends; close ``pause`` once the list is complete."""
        self._progress.begin(resumed=self._initial is None)
        try:
            with self._get(watch_query(**query), _SILENCE_S) as response:
                if self._initial is None:
                    self.problem = None
                for line in self._connection.lines(response, self._is_listing):
                    self._apply(line)
                    if pause is not None and self._initial is None:
                        pause.close()
                        pause = None
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
            log.info("no data from the server, reconnecting", kind=self.resource.kind, silence_s=_SILENCE_S)
        finally:
            self._progress.end()
        if self._initial is not None:
            raise AnswerError("the connection ended during the first list")

    def _is_listing(self) -> bool:
        return self._initial is not None

    def _apply(self, line: bytes) -> None:
        """Apply one event to the index, or add it to the list that is not complete yet."""
        found: Object | None
        if (read := self._reader.read_event(line)) and read[0] in _SETS:
            kind, version, found = read
        else:
            event = decode_event(line)
            kind = event.type
            if kind not in _SETS:
                self._version = self._apply_other(kind, orjson.loads(bytes(event.object))) or self._version
                return
            version, found = self._reader.read(event.object)
        if kind == "ADDED" and self._initial is not None:
            if found is not None:
                self._initial.append(found)
            return
        if found is not None:
            self._index.apply(self.resource, Change("set", found), self._progress.synced_ns)
        # Remembered at each event: resuming from an older version would bring back objects that are gone.
        self._version = version or self._version

    def _apply_other(self, kind: str, item: dict[str, Any]) -> str:
        """Apply a deletion or a bookmark, or raise the error that the event is. Return the resource version."""
        if kind == "ERROR":
            raise error_of(item)
        meta = item["metadata"]
        if kind == "DELETED":
            gone = self.resource.gone(item)
            self._reader.forget(gone.key)
            self._index.apply(self.resource, Change("delete", gone), self._progress.synced_ns)
        elif self._initial is not None:
            if (meta.get("annotations") or {}).get(_INITIAL_END) != "true":
                return ""
            objects, self._initial = self._initial, None
            self._complete(objects)
            self.problem = None
        return str(meta.get("resourceVersion") or "")

    @contextlib.contextmanager
    def _get(self, query: dict[str, str], silence_s: float) -> Iterator[Any]:
        accept = "application/json"
        if self.resource.metadata_only:
            accept = METADATA_ONLY % ("" if "watch" in query else "List")
        path, query = self.resource.path, self.resource.select(query)
        try:
            with self._connection.open(path, query, accept, silence_s) as response:
                yield response
        except AnswerError as error:
            if error.status == 410:
                raise GoneError from error
            if error.status == 404 and self.resource.definition:
                raise AbsentError from error
            raise

    def _set_absent(self, why: str) -> None:
        """Empty the kind: the server does not serve it. ``why``: what a person should know about it."""
        problem = f"{self.resource.kind}: {why}" if why else None
        if self._version or self.problem != problem:
            log.info("the server does not serve this kind: it is treated as empty", kind=self.resource.kind, why=why)
        self._version, self.problem = "", problem
        self._index.replace(self.resource, [], self._progress.synced_ns)
