"""The readers of pods: kubeweir's watch, the official client's informer, and ``nobody``, which only receives the bytes.

The time of ``nobody`` is that of the server, the kernel and the network: no reader can be faster.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Final

import kubernetes

from enrich.index.cluster import Cluster
from enrich.model import Name, Pod
from enrich.sources.kubernetes import KubernetesSource

_TIMEOUT_S: Final = 600
_QUERY: Final = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
_END: Final = b"initial-events-end"
_MARK: Final = re.compile(rb'"mark":"([^"]+)"')


def _client(where: str) -> Any:
    if not where.isdigit():
        return kubernetes.config.new_client_from_config(where)
    return kubernetes.client.ApiClient(kubernetes.client.Configuration(host=f"http://127.0.0.1:{where}"))


class Ours:
    """kubeweir's Kubernetes source with its index, for pods only."""

    def __init__(self, where: str) -> None:
        self.changed = threading.Event()
        self._cluster = Cluster(kinds=(Pod,))
        self._cluster.subscribe(lambda _kinds: self.changed.set())
        self._source = KubernetesSource(self._cluster, lambda: _client(where))

    def sync(self, _pods: int) -> None:
        """Start, and wait until all pods are listed."""
        self._source.start()
        if not self._cluster.synced.wait(_TIMEOUT_S):
            raise RuntimeError(f"the pods are not listed after {_TIMEOUT_S} s: {self._source.problem()}")

    def has(self, name: Name, mark: str) -> bool:
        """Return whether the change with this mark has arrived at the pod."""
        pod = self._cluster._objects[Pod].get(name)
        return pod is not None and pod.labels.get("mark") == mark

    def facts(self) -> dict[str, Any]:
        """Return the number of pods."""
        return {"pods": self._cluster.counts()["Pod"]}


class Informer:
    """The official client's SharedInformer."""

    def __init__(self, where: str) -> None:
        from kubernetes.informer import SharedInformer

        self.changed = threading.Event()
        self._informer = SharedInformer(kubernetes.client.CoreV1Api(_client(where)).list_pod_for_all_namespaces)
        self._informer.add_event_handler("MODIFIED", lambda _pod: self.changed.set())

    def sync(self, pods: int) -> None:
        """Start, and wait until all pods are listed."""
        self._informer.start()
        deadline = time.monotonic() + _TIMEOUT_S
        while len(self._informer.cache.list_keys()) < pods and time.monotonic() < deadline:
            time.sleep(0.005)

    def has(self, name: Name, mark: str) -> bool:
        """Return whether the change with this mark has arrived at the pod."""
        pod = self._informer.cache.get_by_key(str(name))
        return pod is not None and (pod.metadata.labels or {}).get("mark") == mark

    def facts(self) -> dict[str, Any]:
        """Return the number of pods."""
        return {"pods": len(self._informer.cache.list_keys())}


class Nobody:
    """Receives the bytes of a WatchList from a socket, and looks for marks in the events after the list.

    ``seen`` has the time at which each mark was received.
    """

    def __init__(self, where: str, collection: str = "/api/v1/pods", mark: re.Pattern[bytes] = _MARK) -> None:
        self.changed = threading.Event()
        self.seen: dict[str, float] = {}
        self._pattern = mark
        self._synced = threading.Event()
        self._socket, head = _connect(where)
        self._head = f"GET {collection}?{_QUERY} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode()
        self._bytes = 0
        self._thread = threading.Thread(target=self._read, daemon=True)

    def sync(self, pods: int) -> None:
        """Start, and read to the end of the list."""
        self._pods = pods
        self._thread.start()
        if not self._synced.wait(_TIMEOUT_S):
            raise RuntimeError(f"the end of the list was not received within {_TIMEOUT_S} s")

    def has(self, _name: Name, mark: str) -> bool:
        """Return whether the change with this mark has been received."""
        return mark in self.seen

    def facts(self) -> dict[str, Any]:
        """Return the number of pods and the size of the list in MB."""
        return {"pods": self._pods, "list_mb": self._bytes / 1e6}

    def _read(self) -> None:
        self._socket.sendall(self._head)
        block, tail = bytearray(1 << 18), b""
        while size := self._socket.recv_into(block):
            if self._synced.is_set():
                self._find(tail + block[:size])
            self._bytes += size
            tail = bytes(block[max(0, size - 4096) : size])
            if not self._synced.is_set() and _END in tail:
                self._synced.set()

    def _find(self, block: bytes) -> None:
        now = time.perf_counter()
        for found in self._pattern.findall(block):
            self.seen.setdefault(found.decode(), now)
        self.changed.set()


def _connect(where: str) -> tuple[socket.socket, str]:
    """Connect to a port or the server of a kubeconfig; return the socket and the header for authentication."""
    if where.isdigit():
        return socket.create_connection(("127.0.0.1", int(where))), ""
    config = json.loads(Path(where).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    plain = socket.create_connection(("127.0.0.1", int(cluster["server"].rpartition(":")[2])))
    return context.wrap_socket(plain, server_hostname="127.0.0.1"), f"Authorization: Bearer {user['token']}\r\n"


READERS: Final[dict[str, Any]] = {"nobody": Nobody, "ours": Ours, "informer": Informer}
