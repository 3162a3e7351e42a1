"""A small API server that can fall silent, be away, and forget old versions.

It serves namespaces, nodes, pods, Services and NetworkPolicies, and speaks the protocol of list and watch (WatchList,
resource versions, 410 for one that is too old). Every other collection is empty.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from tests.bench_watch.server import chunked, event

_COLLECTIONS: Final = {
    "/api/v1/namespaces": "Namespace",
    "/api/v1/nodes": "Node",
    "/api/v1/pods": "Pod",
    "/api/v1/services": "Service",
    "/apis/networking.k8s.io/v1/networkpolicies": "NetworkPolicy",
}
_BOOKMARK_S: Final = 5.0


class LocalApi:
    """The server, and its objects. It serves when the constructor returns."""

    def __init__(self, cluster: str, nodes: Iterable[str]) -> None:
        """``cluster``: the UID of the namespace kube-system."""
        self.changed = threading.Condition()
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[tuple[str, bytes]] = []
        """All changes: the kind, and the line for a watch. A resource version is a number of changes."""
        self.oldest = 0
        """The oldest version from which a watch can go on."""
        self.silent = threading.Event()
        """Set while connections stay open and nothing comes through them."""
        self.away = threading.Event()
        """Set while no connection is taken or kept."""
        for name, uid in (("shop", "uid-shop"), ("kube-system", cluster)):
            self.set("Namespace", {"name": name, "uid": uid})
        for name in nodes:
            self.set("Node", {"name": name, "uid": f"uid-{name}"})
        self._server = _Server(("127.0.0.1", 0), type("Local", (_Handler,), {"api": self}))
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="local api", daemon=True).start()

    def set(self, kind: str, metadata: dict[str, Any], **parts: Any) -> None:
        """Create or change an object."""
        with self.changed:
            known = (kind, metadata["name"]) in self.objects
            self._add("MODIFIED" if known else "ADDED", kind, metadata, parts)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object."""
        with self.changed:
            item = self.objects[kind, name]
            self._add("DELETED", kind, item["metadata"], {key: item[key] for key in ("spec", "status") if key in item})

    def _add(self, change: str, kind: str, metadata: dict[str, Any], parts: dict[str, Any]) -> None:
        meta = {**metadata, "resourceVersion": str(len(self.events) + 1)}
        item = {"apiVersion": "v1", "kind": kind, "metadata": meta, **parts}
        self.objects[kind, metadata["name"]] = item
        if change == "DELETED":
            del self.objects[kind, metadata["name"]]
        self.events.append((kind, event(change, item)))
        self.changed.notify_all()

    def forget(self) -> None:
        """Let no watch go on from an earlier version: 410."""
        with self.changed:
            self.oldest = len(self.events)

    def after(self, version: int) -> list[tuple[str, bytes]]:
        """Wait a moment for changes after a version, and return them."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.events) > version or self.away.is_set(), _BOOKMARK_S)
            return self.events[version:]

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig for the server."""
        path = folder / "kubeconfig"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "local",
            "clusters": [{"name": "local", "cluster": {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}}],
            "users": [{"name": "local", "user": {}}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
        }  # fmt: skip
        path.write_text(json.dumps(config))
        return path

    def close(self) -> None:
        """End the server."""
        self.away.set()
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients are killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: LocalApi

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):  # the client has closed the connection
            if self.api.away.is_set():
                self.close_connection = True
                return
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            kind = _COLLECTIONS.get(parts.path, "")
            if "watch" in query:
                self._watch(kind, query)
            else:
                self._list(kind)

    def _list(self, kind: str) -> None:
        with self.api.changed:
            items = [item for (found, _), item in self.api.objects.items() if found == kind]
            version = len(self.api.events)
        body = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}}
        self._answer({**body, "items": items} if kind else {"kind": "List", **body, "items": []})

    def _answer(self, body: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        with self.api.changed:
            initial = "sendInitialEvents" in query
            seen = len(self.api.events) if initial else int(query.get("resourceVersion", 0))
            items = [item for (found, _), item in self.api.objects.items() if found == kind] if initial else []
            too_old = seen < self.api.oldest
        if too_old:
            self._answer({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired"}, 410)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send([event("ADDED", item) for item in items])
        if initial:
            self._send([_bookmark(seen, initial=True)])
        while not self.api.away.is_set():
            new = self.api.after(seen)
            seen += len(new)
            while self.api.silent.is_set() and not self.api.away.is_set():
                self.api.away.wait(0.05)
            if not self.api.away.is_set():
                self._send([line for found, line in new if found == kind] or [_bookmark(seen)])
        self.close_connection = True

    def _send(self, lines: list[bytes]) -> None:
        for block in chunked(lines):
            self.wfile.write(block)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _bookmark(version: int, *, initial: bool = False) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(version)}
    if initial:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    return event("BOOKMARK", {"metadata": meta})
