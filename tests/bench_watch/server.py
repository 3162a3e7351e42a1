"""An API server of canned bytes in its own process. It serves sizes for which a real one would need minutes.

It speaks the real protocol: chunked responses with one event in each chunk, WatchList, and pages. Its pods have all
fields that a kubelet and a Deployment set, 3.3 kB each. All other collections are empty. A client makes changes by
POST /change.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from ports import free_port

PER_DEPLOYMENT: Final = 20
PER_NODE: Final = 20
_BLOCK: Final = 1 << 16


def address(number: int) -> str:
    """Return the address of the pod with this number."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def make_pod(number: int, version: int = 1, run: int = 0) -> dict[str, Any]:
    """Make a pod with all the fields of a real one."""
    team, app, ip = number // PER_DEPLOYMENT % 97, number // PER_DEPLOYMENT, address(number)
    name = f"app-{app:05d}-6d4cf56db6-{number:06x}"
    labels = {"app": f"app-{app:05d}", "pod-template-hash": "6d4cf56db6", "team": f"team-{team}", "tier": "web"}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"app-{app:05d}-6d4cf56db6",
             "uid": f"5b0c6a4e-0000-4000-8000-{app:012x}", "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    when = "2026-01-01T00:00:00Z"
    fields: dict[str, Any] = {
        f"f:{key}": {} for key in ("name", "image", "ports", "resources", "env", "volumeMounts", "args")
    }
    managed = [{"manager": m, "operation": "Update", "apiVersion": "v1", "time": when, "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": fields}, "f:spec": {"f:containers": fields}}}
               for m in ("kube-controller-manager", "kubelet")]  # fmt: skip
    container = {
        "name": "main", "image": "registry.example/app:1.2.3", "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": f"SETTING_{n}", "value": f"value-{n}"} for n in range(6)],
        "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "kube-api-access", "readOnly": True,
                          "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    }  # fmt: skip
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": when} for kind in kinds]
    return {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": name, "generateName": name[:-6], "namespace": f"team-{team}",
            "uid": f"{number:08x}-0000-4000-8000-{run:012x}", "resourceVersion": str(version),
            "creationTimestamp": when, "labels": labels, "ownerReferences": [owner], "managedFields": managed,
        },
        "spec": {
            "volumes": [{"name": "kube-api-access", "projected": {"sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ], "defaultMode": 420}}],
            "containers": [container], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "serviceAccountName": "default", "nodeName": f"node-{number // PER_NODE:05d}",
            "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": True,
            "tolerations": [{"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute",
                             "tolerationSeconds": 300} for why in ("not-ready", "unreachable")],
        },
        "status": {
            "phase": "Running", "conditions": conditions, "hostIP": "192.0.2.1", "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": when, "qosClass": "Burstable",
            "containerStatuses": [{
                "name": "main", "state": {"running": {"startedAt": when}}, "lastState": {}, "ready": True,
                "restartCount": 0, "image": "registry.example/app:1.2.3", "started": True,
                "imageID": f"registry.example/app@sha256:{'0' * 64}", "containerID": f"containerd://{number:064x}",
            }],
        },
    }  # fmt: skip


def event(kind: str, item: dict[str, Any]) -> bytes:
    """Return an event as a line of a watch."""
    return json.dumps({"type": kind, "object": item}, separators=(",", ":")).encode() + b"\n"


class CannedServer:
    """The process of a server with ``pods`` pods; it serves when the constructor returns."""

    def __init__(self, pods: int, *, watch_list: bool = True) -> None:
        self.port = free_port()
        ready = multiprocessing.get_context("spawn").Event()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(self.port, pods, watch_list, ready), daemon=True
        )
        self._process.start()
        if not ready.wait(300):
            raise RuntimeError("the canned server did not start within 300 s")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


class _State:
    """The pods, and the changes for the watches."""

    def __init__(self, pods: int, *, watch_list: bool) -> None:
        self.watch_list = watch_list
        self.items = [json.dumps(make_pod(n), separators=(",", ":")).encode() for n in range(pods)]
        self.added = [b'{"type":"ADDED","object":' + item + b"}\n" for item in self.items] if watch_list else []
        self.changed = threading.Condition()
        self.changes: list[bytes] = []

    def after(self, seen: int) -> list[bytes]:
        """Wait until there are more than ``seen`` changes, and return those after them."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.changes) > seen)
            return self.changes[seen:]


def _serve(port: int, pods: int, watch_list: bool, ready: Any) -> None:
    state = _State(pods, watch_list=watch_list)
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Canned", (_Handler,), {"state": state}))
    server.daemon_threads = True
    ready.set()
    server.serve_forever(0.5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    disable_nagle_algorithm = True
    state: _State

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        pods = parts.path == "/api/v1/pods"
        if "watch" in query:
            self._stream(pods, "sendInitialEvents" in query, int(query.get("resourceVersion", 0)))
        else:
            self._page(self.state.items if pods else [], query)

    def do_POST(self) -> None:
        """Send the lines of the body as events to every watch of pods."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.state.changed:
            self.state.changes += [line + b"\n" for line in body.splitlines()]
            self.state.changed.notify_all()
        self._answer(b"{}")

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _page(self, items: list[bytes], query: dict[str, str]) -> None:
        first, limit = int(query.get("continue", 0)), int(query.get("limit", len(items) or 1))
        after = first + limit
        token = b',"continue":"%d"' % after if after < len(items) else b""
        about = b'"resourceVersion":"%d"%b' % (1 + len(self.state.changes), token)
        head = b'{"kind":"List","apiVersion":"v1","metadata":{%b},"items":[' % about
        self._answer(head + b",".join(items[first:after]) + b"]}")

    def _stream(self, pods: bool, initial: bool, version: int) -> None:
        if initial and not self.state.watch_list:
            self._answer(b"{}", 422)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # The resource version of a list is one more than the number of changes before it.
        seen = version - 1 if 0 < version <= len(self.state.changes) else len(self.state.changes)
        if initial:
            end = {"metadata": {"resourceVersion": str(1 + seen), "annotations": {"k8s.io/initial-events-end": "true"}}}
            for block in chunked([*(self.state.added if pods else []), event("BOOKMARK", end)]):
                self.wfile.write(block)
        with contextlib.suppress(OSError):  # the client has closed the connection
            while pods:
                new = self.state.after(seen)
                seen += len(new)
                for block in chunked(new):
                    self.wfile.write(block)
        threading.Event().wait()

    def log_message(self, *_args: object) -> None:
        """Log nothing."""


def chunked(lines: list[bytes]) -> Iterator[bytes]:
    """Make one chunk of each line, as the API server does, and blocks of several chunks for one send each."""
    parts: list[bytes] = []
    size = 0
    for line in lines:
        parts += (b"%x\r\n" % len(line), line, b"\r\n")
        size += len(line)
        if size > _BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
