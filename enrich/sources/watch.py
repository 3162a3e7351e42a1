"""One kind of object, listed and watched on a thread of its own.

Where the server has WatchList, the list comes as events of a stream that goes on as the watch; else the list comes in
pages, and the watch begins at its version. An end of the stream: again at once, from the last version seen. 410, as a
status or as an event: list again. Anything else: wait, twice as long each time, with jitter, while the index as it
stands stays in service. Versions are opaque.
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes

Of a kind whose CRD is not there the list is empty; the definition itself is watched until it comes.
"""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import orjson
import structlog
import urllib3

from enrich.index.cluster import Change
from enrich.model import Object
from enrich.sources.client import AnswerError, Client
from enrich.sources.resources import Index, Reader, Resource
from enrich.sources.stream import blocks

log = structlog.get_logger("kubeweir.source")

_PAGE: Final = 500
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_SHORT_S: Final = 1.0
"""A stream that ends sooner is not followed by the next one at once."""
_SILENT_S: Final = 150.0
"""A server sends a bookmark a minute; one that says nothing for so long is asked again, from the last version."""
_LIST_SILENT_S: Final = 60.0
_IDLE_NS: Final = 500_000
"""A read that waited for so long found nothing waiting: until then all was read."""
_RESUMED_NS: Final = 1_000_000_000
"""The same, where the server has yet to send what happened since the version that we asked from."""
_LATER_S: Final = 30.0
_METADATA: Final = "application/json;as=PartialObjectMetadata%s;g=meta.k8s.io;v=v1,application/json"
_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SETS: Final = ("ADDED", "MODIFIED")
_INITIAL_END: Final = "k8s.io/initial-events-end"
_NO_WATCH_LIST: Final = frozenset({400, 422, 500})
"""Invalid where the feature is off or unknown; 500 where etcd is too old for it."""

_loading = threading.Lock()


class _GoneError(Exception):
    """The version is too old to watch from: list again (410)."""


class _AbsentError(Exception):
    """The server does not have this kind."""


class Watch:
    """Keeps one kind in the index."""

    def __init__(self, client: Client, resource: Resource, index: Index) -> None:
        self.resource = resource
        self.problem: str | None = f"{resource.kind} not listed yet"
        self.heard = time.monotonic()
        """When the server was last heard of."""
        self.thread = threading.Thread(target=self._run, name=f"watch-{resource.kind}", daemon=True)
        self._client, self._index = client, index
        self._reader = Reader(resource)
        self._stop = threading.Event()
        self._response: Any = None
        self._version = ""
        self._by_pages = False
        self._initial: list[Object] | None = None
        self._asking_ns = self._dry_ns = 0
        self._idle_ns = _IDLE_NS

    @property
    def refused(self) -> set[str]:
        """Names of objects that are not understood."""
        return self._reader.refused

    def stop(self) -> None:
        """End it, also while it waits for the server."""
        self._stop.set()
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):
                response.shutdown()

    def synced_until_ns(self) -> int:
        """Everything that the server told before this moment of the wall clock is in the index; 0: nothing is."""
        asking, now = self._asking_ns, time.time_ns()
        return now - _IDLE_NS if asking and now - asking > self._idle_ns else self._dry_ns

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            failed = False
            try:
                failed = not self._attempt()
            except _GoneError:
                self._version = ""
                log.info("watch is too old, listing again", kind=self.resource.kind)
            except (AnswerError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                failed = True
                self._report(error)
            except Exception as error:
                failed = True
                log.exception("watch failed in a way that nobody foresaw", kind=self.resource.kind)
                self.problem = f"{self.resource.kind}: {error!r}"
            if self.heard >= began:
                failures = 0
            if failed or time.monotonic() - began < _SHORT_S:
                failures += 1
                wait = min(_FIRST_WAIT_S * 2 ** (failures - 1), _LONGEST_WAIT_S)
                self._stop.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load

    def _attempt(self) -> bool:
        """Follow the kind, or wait for it where there is none. False: it is to come, and does not yet."""
        try:
            self._step()
        except _AbsentError:
            return self._wait_for_definition()
        return True

    def _report(self, error: Exception) -> None:
        if not self._stop.is_set():
            self.problem = f"{self.resource.kind}: {_in_words(error)}"
            log.warning("watch failed, trying again", kind=self.resource.kind, error=_in_words(error))

    # --- lists

    def _step(self) -> None:
        """Follow; where there is no version to follow from, list first. Raises what ends it."""
        if not self._version:
            if not self._by_pages and self._watch_list():
                return
            self._by_pages = False
            with _quick():
                self._version = self._list_pages()
        self._follow({"resourceVersion": self._version})

    def _watch_list(self) -> bool:
        """List and follow by one stream; False where the server cannot."""
        self._initial = []
        self._reader.begin()
        try:
            with _quick() as quick:
                self._follow({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, quick)
        except AnswerError as error:
            if self._version or error.status not in _NO_WATCH_LIST:
                raise
            log.info("no WatchList here, listing in pages", kind=self.resource.kind, status=error.status)
            return False
        finally:
            # One that broke off is not tried again the same way.
            self._by_pages = bool(self._initial)
            self._initial = None
        return True

    def _list_pages(self) -> str:
        """The list, in pages, into the index; its version."""
        objects: list[Object] = []
        query = {"limit": str(_PAGE)}
        self._reader.begin()
        while True:
            with self._get(query, _LIST_SILENT_S) as response:
                page = _read_page(response.read())
            objects += [made for item in page.items or () if (made := self._reader.read(item)[1]) is not None]
            if not page.metadata.token:
                break
            query["continue"] = page.metadata.token
        self._complete(objects)
        return page.metadata.version

    def _complete(self, objects: list[Object]) -> None:
        self._index.replace(self.resource, objects, self._dry_ns)
        log.info("listed", kind=self.resource.kind, objects=len(objects))

    # --- the stream

    def _follow(self, query: dict[str, str], quick: contextlib.ExitStack | None = None) -> None:
        """Apply events until the stream ends. ``quick``: what is to be left once the list is complete."""
        asked = {
            "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_server_timeout()), **query,
        }  # fmt: skip
        self._idle_ns = _IDLE_NS if self._initial is not None else _RESUMED_NS
        try:
            with self._get(asked, _SILENT_S) as response:
                if self._initial is None:
                    self.problem = None
                for line in self._lines(response):
                    self._take(line)
                    if quick is not None and self._initial is None:
                        quick.close()
                        quick = None
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
            log.info("the server has said nothing for long, asking again", kind=self.resource.kind)
        finally:
            self._asking_ns = 0
        if self._initial is not None:
            raise AnswerError("the first list broke off")

    def _lines(self, response: Any) -> Iterator[bytes]:
        """The lines of a stream, one event each (an event may be larger than a read)."""
        rest = b""
        came = blocks(response)
        while True:
            asking = time.time_ns()
            # While the list is not complete, all that is known is that it is not.
            self._asking_ns = asking if self._initial is None else 0
            block = next(came, None)
            now, self._asking_ns = time.time_ns(), 0
            self.heard = time.monotonic()
            if self._initial is None and now - asking > self._idle_ns:
                self._dry_ns, self._idle_ns = now - _IDLE_NS, _IDLE_NS
            if block is None:
                return
            *lines, rest = (rest + block).split(b"\n")
            yield from (line for line in lines if line)

    def _take(self, line: bytes) -> None:
        found: Object | None
        if (read := self._reader.read_event(line)) and read[0] in _SETS:
            kind, version, found = read
        else:
            event = _read_event(line)
            kind = event.type
            if kind not in _SETS:
                self._version = self._take_rest(kind, orjson.loads(bytes(event.object))) or self._version
                return
            version, found = self._reader.read(event.object)
        if kind == "ADDED" and self._initial is not None:
            if found is not None:
                self._initial.append(found)
            return
        if found is not None:
            self._index.apply(self.resource, Change("set", found), self._dry_ns)
        # Kept at each event: to watch again from an older one would bring back what is over.
        self._version = version or self._version

    def _take_rest(self, kind: str, item: dict[str, Any]) -> str:
        """Deletions, bookmarks and errors; the version."""
        if kind == "ERROR":
            raise _error(item)
        meta = item["metadata"]
        if kind == "DELETED":
            gone = self.resource.gone(item)
            self._reader.forget(gone.key)
            self._index.apply(self.resource, Change("delete", gone), self._dry_ns)
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
            accept = _METADATA % ("" if "watch" in query else "List")
        try:
            with self._client.get(self.resource.path, self.resource.select(query), accept, silence_s) as response:
                self._response = response
                if self._stop.is_set():
                    response.shutdown()
                self.heard = time.monotonic()
                yield response
        except AnswerError as error:
            if error.status == 410:
                raise _GoneError from error
            if error.status == 404 and self.resource.definition:
                raise _AbsentError from error
            raise
        finally:
            self._response = None

    # --- kinds that may not be there

    def _wait_for_definition(self) -> bool:
        """Empty the list if the kind is not there, and wait for its definition to change; whether it did."""
        self.heard = time.monotonic()
        definition = f"{_DEFINITIONS}/{self.resource.definition}"
        asked = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_server_timeout()),
                 "fieldSelector": f"metadata.name={self.resource.definition}"}  # fmt: skip
        try:
            with self._client.get(definition, {}, "application/json", _LIST_SILENT_S) as response:
                found = orjson.loads(response.read())
            served = [version["name"] for version in found["spec"]["versions"] if version.get("served")]
            if self.resource.version.rpartition("/")[2] in served:
                return False  # it is about to be served
            self._absent(f"the cluster has {', '.join(served)} of it, this program reads {self.resource.version}")
            asked["resourceVersion"] = found["metadata"]["resourceVersion"]
        except AnswerError as error:
            if error.status not in (403, 404):
                raise
            self._absent()
            if error.status == 403:
                # Not permitted to look for the definition: then the kind itself is asked for, now and then.
                self._dry_ns = time.time_ns()
                self._stop.wait(_LATER_S * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
                return True
        self._wait_for_change(asked)
        return True

    def _wait_for_change(self, asked: dict[str, str]) -> None:
        self._idle_ns = _IDLE_NS
        try:
            with self._client.get(_DEFINITIONS, asked, _METADATA % "", _SILENT_S) as response:
                self._response = response
                for line in self._lines(response) if not self._stop.is_set() else ():
                    if _read_event(line).type != "BOOKMARK":
                        return
        finally:
            self._response, self._asking_ns = None, 0

    def _absent(self, why: str = "") -> None:
        problem = f"{self.resource.kind}: {why}" if why else None
        if self._version or self.problem != problem:
            log.info("the server does not serve this kind: it counts as none", kind=self.resource.kind, why=why)
        self._version, self.problem = "", problem
        self._index.replace(self.resource, [], self._dry_ns)


class _PageMeta(msgspec.Struct, gc=False):
    version: str = msgspec.field(name="resourceVersion")
    token: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, gc=False):
    metadata: _PageMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


_read_page = msgspec.json.Decoder(_Page).decode
_read_event = msgspec.json.Decoder(_Event).decode


def _server_timeout() -> int:
    return random.randint(240, 300)  # noqa: S311 - so that not all watches end together


def _error(status: dict[str, Any]) -> Exception:
    code = status.get("code")
    return _GoneError() if code == 410 else AnswerError(str(status.get("message") or status), code or 0)


@contextlib.contextmanager
def _quick() -> Iterator[contextlib.ExitStack]:
    """Without the garbage collector: of a hundred thousand objects none is garbage, and it would look for some again
    and again. It comes back when the block, or the stack that it gives, ends, and leaves those objects alone then."""
    with contextlib.ExitStack() as stack:
        if gc.isenabled() and _loading.acquire(blocking=False):
            stack.callback(_loading.release)
            stack.callback(gc.enable)
            stack.callback(gc.freeze)
            gc.disable()
        yield stack


def _in_words(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return f"the API server cannot be reached: {reason}" if reason else str(error)
