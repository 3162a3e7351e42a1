"""Whether enforcement is to end: only when the DaemonSet that runs the probe is gone, and that is certain.

The object is watched, for whoever deletes it may delete the account too: then no question is answered any more, but the
watch that is open still tells of the deletion. At the stop it is asked for once more. A DaemonSet that is there, one of
the same name that was made anew, and a server that does not answer all mean: stay closed.
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
_ANSWER_S: Final = 5.0
_ERRORS: Final = (AnswerError, urllib3.exceptions.HTTPError, OSError, orjson.JSONDecodeError)


class Ownership:
    """Watches one DaemonSet by namespace and name, on a thread."""

    def __init__(self, daemonset: str, client: Client) -> None:
        """``daemonset``: namespace/name. ``client`` is connected."""
        self._namespace, _, self._name = daemonset.partition("/")
        self._client = client
        self.seen_deleted = False
        """Whether the last that the watch told was its deletion."""
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
        """Begin to watch."""
        self._thread.start()

    def is_over(self) -> bool:
        """Whether the DaemonSet, or its namespace, is deleted or being deleted. What cannot be known is no."""
        try:
            return self._is_deleted(f"{self._collection}/{self._name}") or self._is_deleted(
                f"/api/v1/namespaces/{self._namespace}"
            )
        except _ERRORS as error:
            log.warning(
                "the API server does not say whether our DaemonSet is deleted", error=str(error),
                daemonset=f"{self._namespace}/{self._name}", seen_deleted=self.seen_deleted,
            )  # fmt: skip
            return self.seen_deleted

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()
        response = self._response
        if response is not None:
            response.shutdown()
        self._thread.join(_ANSWER_S)

    def _is_deleted(self, path: str) -> bool:
        try:
            with self._client.get(path, {}, "application/json", _ANSWER_S) as response:
                meta: dict[str, Any] = orjson.loads(response.read())["metadata"]
                return "deletionTimestamp" in meta
        except AnswerError as error:
            if error.status == 404:
                return True
            raise

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._watch()
            except _ERRORS as error:
                log.debug("the watch of our DaemonSet ended", error=str(error))
            if time.monotonic() - began < _RETRY_S:
                self._stop.wait(_RETRY_S)

    def _watch(self) -> None:
        """Without a version the server tells first what is there. What is deleted in between is seen at the stop."""
        query = {"watch": "true", "fieldSelector": f"metadata.name={self._name}", "timeoutSeconds": str(_WATCH_S)}
        with self._client.get(self._collection, query, "application/json", _WATCH_S + 15.0) as response:
            self._response = response
            try:
                for line in _lines(response):
                    event = orjson.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self.seen_deleted = "deletionTimestamp" in event["object"]["metadata"]
                    elif event["type"] == "DELETED":
                        self.seen_deleted = True
                        log.info("our DaemonSet was deleted; enforcement ends with this process")
            finally:
                self._response = None


def _lines(response: Any) -> Any:
    rest = b""
    for block in response.stream(1 << 16, decode_content=True):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line for line in lines if line)
