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
5. *Back off.* After any other error the watch waits 0.5 s, then 1, 2, ... up to 30 s, with jitter, or as long as the
   server asks for. Meanwhile the index stays in service as it is, and :attr:`Watch.problem` says why it may be stale.
   Only a stream that lasted or brought a change ends this. Lists are counted apart: a list after which no stream lasted
   for a minute makes the next one wait, whatever the streams brought.
6. *Silence.* A server sends a bookmark a minute. A connection that is silent for 150 s is replaced by a new one: the
   server may be gone without having closed it.

:meth:`Watch.synced_until_ns` says until when the index is current. Say a read has waited since 12:00:05.000 and it is
12:00:05.300 now: everything sent until now has been read, so it answers now less half a millisecond. Just after a
resume it takes a full second of waiting to say so, because the server may still be looking for what happened since.

A kind whose CustomResourceDefinition is not installed counts as empty (:mod:`enrich.sources.definition`). Objects
of it that were seen before stay in force (:mod:`enrich.sources.last_state`).
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from logging import INFO, WARNING
from typing import Any, Final

import orjson
import structlog
import urllib3

from enrich.sources.backoff import Pace
from enrich.sources.client import AnswerError, Client
from enrich.sources.collection import SETS, Collection
from enrich.sources.connection import Connection
from enrich.sources.definition import wait_for_definition
from enrich.sources.gc_pause import gc_paused
from enrich.sources.messages import (
    METADATA_ONLY,
    AbsentError,
    GoneError,
    decode_page,
    error_of,
    in_words,
    watch_query,
)
from enrich.sources.policy_store import PolicyStore
from enrich.sources.resources import Index, Resource
from enrich.sources.versions import Observer

log = structlog.get_logger("kubeweir.source")

_PAGE: Final = 500
_FIRST_BACKOFF_S = 0.5
_SILENCE_S: Final = 150.0
_LIST_SILENCE_S: Final = 60.0
_INITIAL_END: Final = "k8s.io/initial-events-end"
_NO_WATCH_LIST: Final = frozenset({400, 422, 500})
"""Invalid where the feature is off or unknown; 500 where etcd is too old for it."""


class Watch:
    """Keeps one kind of object in the index current."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        index: Index,
        store: PolicyStore | None = None,
        observer: Observer | None = None,
    ) -> None:
        """``store`` keeps the last state of a kind that a cluster may do without; None: it is lost at a restart.

        ``observer`` takes each version of an object; None: versions are not kept."""
        self.resource = resource
        self.problem: str | None = f"{resource.kind} not listed yet"
        """Why the kind may be stale or missing; None if it is current."""
        self.thread = threading.Thread(target=self._run, name=f"watch-{resource.kind}", daemon=True)
        self._connection = Connection(client)
        self._progress = self._connection.progress
        self._definitions = Connection(client)
        self.objects = Collection(resource, index, self._definitions, store, observer)
        """What was read of the kind."""
        self._pace = Pace(_FIRST_BACKOFF_S)
        self._version = ""
        self._by_pages = False

    @property
    def heard(self) -> float:
        """When the server last sent anything, by the monotonic clock."""
        return self._connection.heard

    def stop(self) -> None:
        """End the thread, even while it waits for the server."""
        self._connection.stop()
        self._definitions.stop()

    def synced_until_ns(self) -> int:
        """Return the moment of the wall clock before which everything published is in the index; 0: there is none."""
        return self._progress.synced_until_ns()

    def _run(self) -> None:
        while not self._connection.stopping.is_set():
            retry_after_s, failed = 0.0, False
            self._pace.begin()
            try:
                failed = not self._attempt()
            except GoneError:
                self._version = ""
                log.info("watch is too old, relisting", kind=self.resource.kind)
                if self._pace.lists_in_vain:
                    self.problem = f"{self.resource.kind}: the API server calls each list too old at once (410)"
            except (AnswerError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                failed, retry_after_s = True, getattr(error, "retry_after_s", 0.0)
                self._report(error)
            except Exception as error:
                failed = True
                log.exception("watch failed unexpectedly", kind=self.resource.kind)
                self.problem = f"{self.resource.kind}: {error!r}"
            wait_s = self._pace.end(retry_after_s, failed=failed, list_next=not self._version)
            if self._pace.ends_at_once and self.problem is None:
                self.problem = f"{self.resource.kind}: the API server ends each watch at once"
            self._connection.stopping.wait(wait_s)

    def _attempt(self) -> bool:
        """Follow the kind, or wait for its definition. False: the server is about to serve it, and does not yet."""
        try:
            self.objects.begin()
            self._list_or_follow()
        except AbsentError:
            self._connection.heard = time.monotonic()
            self._pace.streaming()
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
        self.objects.begin_list()
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
            self._by_pages = self.objects.give_up_list()
        return True

    def _list_pages(self) -> str:
        """List in pages, replace the kind in the index, and return the list's version."""
        query = {"limit": str(_PAGE)}
        self.objects.begin_list()
        try:
            while True:
                with self._get(query, _LIST_SILENCE_S) as response:
                    page = decode_page(response.read())
                if page.kind not in ("", f"{self.resource.kind}List", "PartialObjectMetadataList"):
                    raise AnswerError(f"{self.resource.path}: the API server answered a list with a {page.kind}")
                for item in page.items or ():
                    self.objects.add_item(item)
                if not page.metadata.token:
                    break
                query["continue"] = page.metadata.token
            self.objects.complete_list(self._progress.synced_ns)
        finally:
            self.objects.give_up_list()
        return page.metadata.version

    # --- the stream

    def _follow(self, query: dict[str, str], pause: contextlib.ExitStack | None = None) -> None:
        """Apply events until the stream ends; close ``pause`` once the list is complete."""
        self._progress.begin(resumed=not self._is_listing())
        try:
            with self._get(watch_query(**query), _SILENCE_S) as response:
                if not self._is_listing():
                    self._pace.streaming()
                    if not self._pace.ends_at_once:
                        self.problem = None
                for line in self._connection.lines(response, self._is_listing):
                    self._apply(line)
                    if pause is not None and not self._is_listing():
                        pause.close()
                        pause = None
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
            # Silence is no refusal: it lasts for long enough.
            self._pace.brought()
            log.info("no data from the server, reconnecting", kind=self.resource.kind, silence_s=_SILENCE_S)
        finally:
            self._progress.end()
        if self._is_listing():
            raise AnswerError("the connection ended during the first list")

    def _is_listing(self) -> bool:
        return self.objects.is_listing

    def _apply(self, line: bytes) -> None:
        """Apply one event to the index, or add it to the list that is not complete yet."""
        event = self.objects.read(line)
        if event.type not in SETS:
            self._version = self._apply_other(event.type, orjson.loads(bytes(event.raw))) or self._version
        elif event.type == "ADDED" and self._is_listing():
            self.objects.add(event.made, event.raw)
        else:
            self.objects.set(event, self._progress.synced_ns)
            self._pace.brought()
            self.problem = None
            # Remembered at each event: resuming from an older version would bring back objects that are gone.
            self._version = event.version or self._version

    def _apply_other(self, kind: str, item: dict[str, Any]) -> str:
        """Apply a deletion or a bookmark, or raise the error that the event is. Return the resource version."""
        if kind == "ERROR":
            raise error_of(item)
        meta = item["metadata"]
        if kind == "DELETED":
            self.objects.delete(item, self._progress.synced_ns)
            self._pace.brought()
        elif self._is_listing():
            if (meta.get("annotations") or {}).get(_INITIAL_END) != "true":
                return ""
            self.objects.complete_list(self._progress.synced_ns)
            self._pace.streaming()
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
        """Note that the server does not serve the kind. ``why``: what a person should know about it."""
        self.objects.set_absent(why, self._progress.synced_ns, self._report_absence)

    def _report_absence(self, what: str | None) -> None:
        problem = f"{self.resource.kind}: {what}" if what else None
        if self._version or self.problem != problem:
            level = WARNING if self.objects.kept else INFO
            log.log(level, "the server does not serve this kind", kind=self.resource.kind, problem=problem)
        self._version, self.problem = "", problem
