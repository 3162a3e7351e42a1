"""Takes a taint off this node once its policy is installed, so that no pod starts there before.

The kubelet registers the node with the taint (``--register-with-taints=kubeweir.io/not-ready:NoSchedule``). Pods that
do not tolerate it, other than the probe's own, wait until it is gone. It is taken off once for each start of the probe:
a probe that fails later leaves enforcement in place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import orjson
import structlog
import urllib3

from enrich.sources.client import AnswerError, Client

log = structlog.get_logger("kubeweir.probe")

_POLL_S: Final = 0.2
_RETRY_S: Final = 5.0
_TIMEOUT_S: Final = 5.0


class StartupTaint:
    """Removes one taint, on a thread."""

    def __init__(self, key: str, node: str, client: Client, is_ready: Callable[[], bool]) -> None:
        """``client`` is connected. ``is_ready`` returns whether policy is installed."""
        self._key, self._path, self._client, self._is_ready = key, f"/api/v1/nodes/{node}", client, is_ready
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taint", daemon=True)

    def start(self) -> None:
        """Start to wait for the policy."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the taint stays if it is there still."""
        self._stop.set()
        self._thread.join(2 * _TIMEOUT_S)

    def _run(self) -> None:
        while not self._is_ready():
            if self._stop.wait(_POLL_S):
                return
        while not self._stop.is_set():
            try:
                self._remove()
            except (AnswerError, urllib3.exceptions.HTTPError, OSError, orjson.JSONDecodeError) as error:
                log.warning("the node's taint was not removed: pods do not start here until it is",
                            taint=self._key, error=str(error), retry_s=_RETRY_S)  # fmt: skip
            else:
                return
            self._stop.wait(_RETRY_S)

    def _remove(self) -> None:
        """Remove the taint if it is there. If the node was changed meanwhile, the server refuses: AnswerError."""
        with self._client.get(self._path, {}, "application/json", _TIMEOUT_S) as response:
            node: dict[str, Any] = orjson.loads(response.read())
        taints = node["spec"].get("taints") or []
        left = [taint for taint in taints if taint["key"] != self._key]
        if len(left) == len(taints):
            return
        self._client.patch(self._path, [
            {"op": "test", "path": "/metadata/resourceVersion", "value": node["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/spec/taints", "value": left},
        ])  # fmt: skip
        log.info("the node's taint was removed: policy is installed", taint=self._key)
