"""The cluster by list and watch. The official client gives configuration and authentication; its models are not used.

One thread a kind: list in pages, then watch from the list's version with bookmarks. An end of the stream: again at once
from the last version seen. 410 (as a status or as an event): list again. Anything else: wait, twice as long each time,
with jitter, while the index as it stands stays in service. Nothing is synced before every kind was listed once.

Raw bytes are decoded once and cut down at the door to what policy and enrichment use. ReplicaSets and Jobs are asked
for as metadata only.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import kubernetes
import orjson
import structlog
import urllib3

from enrich.cluster import Change, Cluster
from enrich.fields import InvalidObjectError
from enrich.model import Namespace, NetworkPolicy, Node, Object, Pod, Service, Workload
from enrich.objects import parse
from enrich.sources.source import SourceError

log = structlog.get_logger("kubeweir.source")

_PAGE: Final = 500
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection of the API. ``kind`` and ``version`` are what its elements are, which lists leave out."""

    path: str
    version: str
    kind: str
    type: type
    metadata_only: bool = False


RESOURCES: Final = (
    Resource("/api/v1/namespaces", "v1", "Namespace", Namespace),
    Resource("/api/v1/nodes", "v1", "Node", Node),
    Resource("/api/v1/pods", "v1", "Pod", Pod),
    Resource("/api/v1/services", "v1", "Service", Service),
    Resource("/apis/apps/v1/replicasets", "apps/v1", "ReplicaSet", Workload, metadata_only=True),
    Resource("/apis/batch/v1/jobs", "batch/v1", "Job", Workload, metadata_only=True),
    Resource("/apis/networking.k8s.io/v1/networkpolicies", "networking.k8s.io/v1", "NetworkPolicy", NetworkPolicy),
)


class _GoneError(Exception):
    """The version is too old to watch from: list again (410)."""


class _AnswerError(Exception):
    """The server answered with an error; the message says what to do."""


class KubernetesSource:
    """Watches every kind in use, with the kubeconfig (KUBECONFIG, ~/.kube/config) or the in-cluster account."""

    def __init__(self, cluster: Cluster, client: Any = None) -> None:
        """``client``: a configured ``kubernetes.client.ApiClient``, or None for the environment's."""
        self._cluster = cluster
        self._client = client
        self._workloads = _Together(cluster, Workload, {r.kind for r in RESOURCES if r.type is Workload})
        self._watches: list[_Watch] = []

    def start(self) -> None:
        """Find the configuration and begin to list. A server that cannot be reached is tried for ever."""
        client = self._client or _configured()
        for resource in RESOURCES:
            self._watches.append(_Watch(client, resource, self._cluster, self._workloads))
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

    def age_s(self) -> dict[str, float]:
        """For each kind the seconds since the server was last heard of."""
        return {watch.resource.kind: time.monotonic() - watch.heard for watch in self._watches}


class _Together:
    """Puts the lists of several resources that make one kind of object into the index as one."""

    def __init__(self, cluster: Cluster, kind: type, parts: set[str]) -> None:
        self._cluster, self._kind, self._waiting = cluster, kind, set(parts)
        self._lists: dict[str, list[Object]] = {}
        self._lock = threading.Lock()

    def replace(self, part: str, objects: list[Object]) -> None:
        with self._lock:
            self._lists[part] = objects
            self._waiting.discard(part)
            if not self._waiting:
                self._cluster.replace(self._kind, [made for listed in self._lists.values() for made in listed])

    def apply(self, part: str, change: Change) -> None:
        with self._lock:
            rest = [made for made in self._lists[part] if made.key != change.object.key]
            self._lists[part] = [*rest, change.object] if change.op == "set" else rest
            self._cluster.apply([change])


class _Watch:
    """One kind, on one thread."""

    def __init__(self, client: Any, resource: Resource, cluster: Cluster, workloads: _Together) -> None:
        self.resource = resource
        self.problem: str | None = f"{resource.kind} not listed yet"
        self.heard = time.monotonic()
        self.thread = threading.Thread(target=self._run, name=f"watch-{resource.kind}", daemon=True)
        self._client, self._cluster, self._workloads = client, cluster, workloads
        self._stop = threading.Event()
        self._response: Any = None
        self._listed = False

    def stop(self) -> None:
        self._stop.set()
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):
                response.shutdown()

    def _run(self) -> None:
        wait, version = _FIRST_WAIT_S, ""
        while not self._stop.is_set():
            try:
                version = version or self._list()
                self.problem, wait = None, _FIRST_WAIT_S
                version = self._follow(version)
            except _GoneError:
                version = ""
                log.info("watch is too old, listing again", kind=self.resource.kind)
            except (_AnswerError, urllib3.exceptions.HTTPError, OSError, orjson.JSONDecodeError) as error:
                if self._stop.is_set():
                    return
                self.problem = f"{self.resource.kind}: {_in_words(error)}"
                log.warning("watch failed, trying again", kind=self.resource.kind, error=_in_words(error), wait_s=wait)
                self._stop.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
                wait = min(2 * wait, _LONGEST_WAIT_S)

    def _list(self) -> str:
        """The list, in pages, into the index; its version."""
        objects: list[Object] = []
        query = {"limit": str(_PAGE)}
        while True:
            with self._get(query, timeout=60) as response:
                page = orjson.loads(response.read())
            objects += [made for item in page.get("items") or () if (made := self._parse(item)) is not None]
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        self.heard = time.monotonic()
        if self.resource.type is Workload:
            self._workloads.replace(self.resource.kind, objects)
        else:
            self._cluster.replace(self.resource.type, objects)
        log.info("listed", kind=self.resource.kind, objects=len(objects))
        return str(page["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> str:
        """Apply events until the stream ends; the version to go on from. Raises _GoneError."""
        seconds = random.randint(240, 300)  # noqa: S311 - so that not all watches end together
        query = {
            "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds),
        }  # fmt: skip
        with self._get(query, timeout=seconds + 15) as response:
            for line in _lines(response):
                event = orjson.loads(line)
                self.heard = time.monotonic()
                version = self._take(event, version)
        return version

    def _take(self, event: dict[str, Any], version: str) -> str:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise _GoneError
            raise _AnswerError(str(item.get("message") or item))
        seen = str(item["metadata"].get("resourceVersion") or version)
        if kind == "BOOKMARK":
            return seen
        made = self._parse(item)
        if made is not None:
            change = Change("delete" if kind == "DELETED" else "set", made)
            if self.resource.type is Workload:
                self._workloads.apply(self.resource.kind, change)
            else:
                self._cluster.apply([change])
        return seen

    def _parse(self, item: dict[str, Any]) -> Object | None:
        try:
            return parse({**item, "apiVersion": self.resource.version, "kind": self.resource.kind})
        except InvalidObjectError as error:
            meta = item.get("metadata", {})
            name = f"{meta.get('namespace', '')}/{meta.get('name')}"
            # The server took it and we do not understand it: without it policy may be more closed, never more open.
            log.error("object not understood and left out", kind=self.resource.kind, object=name, error=str(error))
            return None

    @contextlib.contextmanager
    def _get(self, query: dict[str, str], timeout: float) -> Iterator[Any]:
        headers = {"Accept": _METADATA if self.resource.metadata_only else "application/json"}
        try:
            response, status, _ = self._client.call_api(
                self.resource.path, "GET", query_params=list(query.items()), header_params=headers,
                auth_settings=["BearerToken"], _preload_content=False, _request_timeout=(10, timeout),
            )  # fmt: skip
        except kubernetes.client.ApiException as error:
            if error.status == 410:
                raise _GoneError from error
            raise _AnswerError(_advice(error.status, error.reason, self.resource.path)) from error
        self._response = response
        try:
            if status != 200:
                raise _AnswerError(_advice(status, "", self.resource.path))
            yield response
        finally:
            self._response = None
            response.close()
            response.release_conn()


def _configured() -> Any:
    try:
        kubernetes.config.load_config()
    except kubernetes.config.ConfigException as error:
        raise SourceError(
            f"no Kubernetes configuration: {error}. Set KUBECONFIG, or run in a pod with a service account"
        ) from error
    return kubernetes.client.ApiClient()


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
