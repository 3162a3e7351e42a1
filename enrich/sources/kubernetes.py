"""The cluster by list and watch. The official client gives configuration and authentication; its models are not used.

One thread a kind: list in pages, then watch from the list's version with bookmarks. An end of the stream: again at once
from the last version seen. 410 (as a status or as an event): list again. Anything else: wait, twice as long each time,
with jitter, while the index as it stands stays in service. Nothing is synced before every kind was listed once.
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes

An object that the server holds and we do not understand is left out, counted and reported; a NetworkPolicy isolates
what it selects and allows nothing then, for without it those pods would be open.

Raw bytes are decoded once and cut down at the door to what policy and enrichment use. ReplicaSets and Jobs are asked
for as metadata only.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes
import orjson
import structlog
import urllib3
import yaml

from enrich.cluster import Change, Cluster
from enrich.fields import InvalidObjectError
from enrich.model import Name, Object
from enrich.sources.resources import RESOURCES, Index, Resource
from enrich.sources.source import SourceError

log = structlog.get_logger("kubeweir.source")

_PAGE: Final = 500
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_ABSENT_S: Final = 10.0
"""How often a collection that the server does not have is asked for."""
_SHORT_S: Final = 1.0
"""A stream that ends sooner is not followed by the next one at once."""
_METADATA: Final = "application/json;as=PartialObjectMetadata%s;g=meta.k8s.io;v=v1,application/json"


class _GoneError(Exception):
    """The version is too old to watch from: list again (410)."""


class _AbsentError(Exception):
    """The collection is optional and the server does not have it (404)."""


class _AnswerError(Exception):
    """The server answered with an error; the message says what to do."""


class KubernetesSource:
    """Watches every kind in use, with the kubeconfig (KUBECONFIG, ~/.kube/config) or the in-cluster account."""

    def __init__(self, cluster: Cluster, client: Any = None) -> None:
        """``client``: a configured ``kubernetes.client.ApiClient``, or None for the environment's."""
        self._client = client
        self._index = Index(cluster)
        self._watches: list[_Watch] = []

    def start(self) -> None:
        """Find the configuration and begin to list. A server that cannot be reached is tried for ever."""
        client = self._client or _configured()
        for resource in RESOURCES:
            self._watches.append(_Watch(client, resource, self._index))
        for watch in self._watches:
            watch.thread.start()

    def stop(self) -> None:
        """End every watch, also one that waits for the server."""
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            watch.thread.join(5)

    def problem(self) -> str | None:
        """What the watches wait for."""
        return "; ".join(watch.problem for watch in self._watches if watch.problem) or None

    def refused(self) -> list[str]:
        """Objects that the server holds and we do not understand, as kind namespace/name."""
        return sorted(f"{watch.resource.kind} {name}" for watch in self._watches for name in tuple(watch.refused))

    def age_s(self) -> dict[str, float]:
        """For each kind the seconds since the server was last heard of."""
        return {watch.resource.kind: time.monotonic() - watch.heard for watch in self._watches}


class _Watch:
    """One kind, on one thread."""

    def __init__(self, client: Any, resource: Resource, index: Index) -> None:
        self.resource = resource
        self.problem: str | None = f"{resource.kind} not listed yet"
        self.heard = time.monotonic()
        """When the server was last heard of."""
        self.refused: set[str] = set()
        """Names of objects that are not understood."""
        self.thread = threading.Thread(target=self._run, name=f"watch-{resource.kind}", daemon=True)
        self._client, self._index = client, index
        self._stop = threading.Event()
        self._response: Any = None
        self._version = ""

    def stop(self) -> None:
        self._stop.set()
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):
                response.shutdown()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            failed = False
            try:
                self._version = self._version or self._list()
                self._follow()
            except _GoneError:
                self._version = ""
                log.info("watch is too old, listing again", kind=self.resource.kind)
            except _AbsentError:
                self._absent()
            except (_AnswerError, urllib3.exceptions.HTTPError, OSError, orjson.JSONDecodeError) as error:
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

    def _absent(self) -> None:
        """Without its CRD a collection is empty; it is asked for again, for the CRD may come."""
        self._version = ""
        self.problem = None
        self._index.replace(self.resource, [])
        self._stop.wait(_ABSENT_S)

    def _report(self, error: Exception) -> None:
        if not self._stop.is_set():
            self.problem = f"{self.resource.kind}: {_in_words(error)}"
            log.warning("watch failed, trying again", kind=self.resource.kind, error=_in_words(error))

    def _list(self) -> str:
        """The list, in pages, into the index; its version."""
        objects: list[Object] = []
        query = {"limit": str(_PAGE)}
        self.refused.clear()
        while True:
            with self._get(query, timeout=60) as response:
                page = orjson.loads(response.read())
            objects += [made for item in page.get("items") or () if (made := self._read(item)) is not None]
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        self._index.replace(self.resource, objects)
        log.info("listed", kind=self.resource.kind, objects=len(objects))
        return str(page["metadata"]["resourceVersion"])

    def _follow(self) -> None:
        """Apply events until the stream ends. Raises _GoneError."""
        seconds = random.randint(240, 300)  # noqa: S311 - so that not all watches end together
        query = {
            "watch": "true", "resourceVersion": self._version, "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }  # fmt: skip
        with self._get(query, timeout=seconds + 15) as response:
            self.problem = None
            for line in _lines(response):
                self.heard = time.monotonic()
                self._take(orjson.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise _GoneError
            raise _AnswerError(str(item.get("message") or item))
        if kind == "DELETED":
            gone = self.resource.gone(item)
            self.refused.discard(str(gone.key))
            self._index.apply(self.resource, Change("delete", gone))
        elif kind != "BOOKMARK" and (made := self._read(item)) is not None:
            self._index.apply(self.resource, Change("set", made))
        # Kept at each event: to watch again from an older one would bring back what is over.
        self._version = str(item["metadata"].get("resourceVersion") or self._version)

    def _read(self, item: dict[str, Any]) -> Object | None:
        meta = item["metadata"]
        name = str(Name(meta.get("namespace", ""), meta["name"]))
        try:
            made = self.resource.read(item)
        except InvalidObjectError as error:
            self.refused.add(name)
            log.error("object not understood", kind=self.resource.kind, object=name, error=str(error))
            return self.resource.closed(item)
        self.refused.discard(name)
        return made

    @contextlib.contextmanager
    def _get(self, query: dict[str, str], timeout: float) -> Iterator[Any]:
        accept = _METADATA % ("" if "watch" in query else "List") if self.resource.metadata_only else "application/json"
        request = self._client.param_serialize(
            method="GET", resource_path=self.resource.path, query_params=list(query.items()),
            header_params={"Accept": accept}, auth_settings=["BearerToken"],
        )  # fmt: skip
        try:
            response = self._client.call_api(*request, _request_timeout=(10, timeout)).response
        except kubernetes.client.ApiException as error:  # TLS
            raise _AnswerError(f"the API server cannot be reached: {error.reason}") from error
        self._response = response
        try:
            if self._stop.is_set():
                raise _AnswerError("stopped")
            if response.status == 410:
                raise _GoneError
            if response.status == 404 and self.resource.optional:
                self.heard = time.monotonic()
                raise _AbsentError
            if response.status != 200:
                raise _AnswerError(_advice(response.status, response.reason, self.resource.path))
            self.heard = time.monotonic()
            yield response
        finally:
            self._response = None
            response.close()


def _configured() -> Any:
    """A client by KUBECONFIG, ~/.kube/config or the pod's service account, in this order."""
    configuration = kubernetes.client.Configuration()
    named, usual = os.environ.get("KUBECONFIG"), Path.home() / ".kube/config"
    try:
        if named or usual.exists():
            kubernetes.config.load_kube_config(named or str(usual), client_configuration=configuration)
        else:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
    except (kubernetes.config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        raise SourceError(
            f"no Kubernetes configuration: {error}. Set KUBECONFIG, or run in a pod with a service account"
        ) from error
    return kubernetes.client.ApiClient(configuration)


def _lines(response: Any) -> Iterator[bytes]:
    """The lines of a stream, one event each (an event may be larger than a read)."""
    rest = b""
    for block in response.stream(1 << 16, decode_content=True):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line for line in lines if line)


def _advice(status: int | None, reason: str, path: str) -> str:
    match status:
        case 401:
            return f"{path}: the API server does not accept our credentials (401): renew the token or certificate"
        case 403:
            return f"{path}: not permitted (403): our account needs get, list and watch there, see the project's RBAC"
        case _:
            return f"{path}: the API server answered {status} {reason}"


def _in_words(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return f"the API server cannot be reached: {reason}" if reason else str(error)
