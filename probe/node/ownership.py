"""Decides whether enforcement ends with this process: only if the DaemonSet that runs the probe was surely deleted.

The DaemonSet is watched, because its deletion is often followed by that of the service account: then the API server
no longer answers requests, but an open watch still delivers the deletion. When the probe stops, it requests the
DaemonSet once more. Enforcement stays in place if the DaemonSet exists, if another of the same name was created, or if
the API server does not answer.

With WEIR_PRUNE_GUARD the deletion alone is not enough, because a GitOps tool deletes what it no longer finds in Git.
The DaemonSet must have had the annotation kubeweir.io/detach=confirmed before. If the probe has not seen it,
enforcement stays in place, and `weir-probe detach` ends it.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import orjson
import structlog
import urllib3

from enrich.sources.client import AnswerError, Client

log = structlog.get_logger("kubeweir.probe")

_WATCH_S: Final = 300
_RETRY_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
CONFIRMATION: Final = ("kubeweir.io/detach", "confirmed")
"""The annotation, and its value, by which a person says that the deletion is on purpose."""
_ERRORS: Final = (AnswerError, urllib3.exceptions.HTTPError, OSError, orjson.JSONDecodeError)


class Ownership:
    """Watches one DaemonSet on a thread."""

    def __init__(self, daemonset: str, client: Client, *, needs_confirmation: bool = False) -> None:
        """``daemonset`` is namespace/name; ``client`` is connected.

        With ``needs_confirmation``, only the deletion of a DaemonSet that has :data:`CONFIRMATION` ends enforcement.
        """
        self._namespace, _, self._name = daemonset.partition("/")
        self._client, self._needs_confirmation = client, needs_confirmation
        self.seen_deleted = False
        """Whether the newest event of the watch was the deletion."""
        self.seen_confirmed = False
        """Whether the DaemonSet, as it was last seen, has the annotation that confirms its deletion."""
        self._response: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ownership", daemon=True)

    @property
    def watching(self) -> bool:
        """Whether a watch is open."""
        return self._response is not None

    @property
    def _collection(self) -> str:
        return f"/apis/apps/v1/namespaces/{self._namespace}/daemonsets"

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def is_over(self) -> bool:
        """Return whether the DaemonSet is deleted, and that is confirmed if it must be."""
        if not self._is_gone():
            return False
        if self._needs_confirmation and not self.seen_confirmed:
            log.warning(
                "our DaemonSet was deleted, but enforcement stays in place, because WEIR_PRUNE_GUARD is set and the "
                "DaemonSet did not have the annotation that confirms it; to end enforcement, apply "
                "deploy/kubernetes/detach",
                daemonset=f"{self._namespace}/{self._name}", annotation="=".join(CONFIRMATION),
            )  # fmt: skip
            return False
        return True

    def _is_gone(self) -> bool:
        """Return whether the DaemonSet or its namespace is deleted, or being deleted.

        If the API server does not answer, the newest event of the watch decides.
        """
        try:
            daemonset = self._read(f"{self._collection}/{self._name}")
            if daemonset is not None:
                self._look(daemonset)
            return _is_deleted(daemonset) or _is_deleted(self._read(f"/api/v1/namespaces/{self._namespace}"))
        except _ERRORS as error:
            log.warning(
                "the API server did not answer whether our DaemonSet is deleted: the last event of the watch decides",
                error=str(error), daemonset=f"{self._namespace}/{self._name}", seen_deleted=self.seen_deleted,
            )  # fmt: skip
            return self.seen_deleted

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()
        response = self._response
        if response is not None:
            response.shutdown()
        self._thread.join(_TIMEOUT_S)

    def _read(self, path: str) -> dict[str, Any] | None:
        """Return an object of the API server; None if it does not exist."""
        try:
            with self._client.get(path, {}, "application/json", _TIMEOUT_S) as response:
                found: dict[str, Any] = orjson.loads(response.read())
                return found
        except AnswerError as error:
            if error.status == 404:
                return None
            raise

    def _look(self, daemonset: dict[str, Any]) -> None:
        """Remember whether the deletion of this DaemonSet would be on purpose."""
        name, value = CONFIRMATION
        self.seen_confirmed = (daemonset["metadata"].get("annotations") or {}).get(name) == value

    def _run(self) -> None:
        while not self._stop.is_set():
            started_at = time.monotonic()
            try:
                self._watch()
            except _ERRORS as error:
                log.debug("the watch of our DaemonSet ended", error=str(error))
            if time.monotonic() - started_at < _RETRY_S:
                self._stop.wait(_RETRY_S)

    def _watch(self) -> None:
        """Read one watch to its end.

        Without a resourceVersion the API server first sends the object as it is. A deletion between two watches is
        found when the probe stops.
        """
        query = {"watch": "true", "fieldSelector": f"metadata.name={self._name}", "timeoutSeconds": str(_WATCH_S)}
        with self._client.get(self._collection, query, "application/json", _WATCH_S + 15.0) as response:
            self._response = response
            try:
                for line in _lines(response):
                    event = orjson.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                        self._look(event["object"])
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self.seen_deleted = _is_deleted(event["object"])
                    elif event["type"] == "DELETED":
                        self.seen_deleted = True
                        log.info("our DaemonSet was deleted", confirmed=self.seen_confirmed)
            finally:
                self._response = None


def _is_deleted(found: dict[str, Any] | None) -> bool:
    """Return whether an object does not exist, or is being deleted."""
    return found is None or "deletionTimestamp" in found["metadata"]


def _lines(response: Any) -> Any:
    rest = b""
    for block in response.stream(1 << 16, decode_content=True):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line for line in lines if line)
