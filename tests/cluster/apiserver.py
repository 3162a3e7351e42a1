"""A real kube-apiserver and etcd on loopback, and a way to them that can be cut. No controllers, no nodes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ports import free_ports

_COLLECTIONS = {
    "Namespace": "namespaces", "Node": "minions", "Pod": "pods", "NetworkPolicy": "networkpolicies",
}  # fmt: skip
"""What the API server calls them in etcd."""
TOKENS = {"admin": "admin-token", "reader": "reader-token"}


_PATIENCE_S = 240
"""For what is a matter of seconds, on a machine that takes ten times as long. Only a test that fails waits so long."""
_MOST_IN_ONE = 100
"""etcd takes 128 writes as one."""


class ApiServer:
    """Both processes in a folder of their own. ``binaries`` holds etcd and kube-apiserver."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self._folder = binaries, folder
        self.port = free_ports(3)
        self._etcd_port, self._peer_port = self.port + 1, self.port + 2
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start both and wait until the server is ready."""
        self._folder.mkdir(parents=True, exist_ok=True)
        key = self._folder / "account.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self._folder / "tokens.csv").write_text(
            f'{TOKENS["admin"]},admin,1,"system:masters"\n{TOKENS["reader"]},reader,2,""\n'
        )
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._run(
            "etcd", f"--data-dir={self._folder}/etcd", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}", "--unsafe-no-fsync=true",
            # What bookmarks are made of, where nothing happens.
            "--watch-progress-notify-interval=1s",
        )  # fmt: skip
        self.start_server()

    def start_server(self) -> None:
        """Start kube-apiserver (again)."""
        folder, key = self._folder, self._folder / "account.key"
        self._run(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self._etcd_port}", f"--secure-port={self.port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={folder}/certificates",
            f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC", "--etcd-compaction-interval=0",
            "--service-account-issuer=https://kubeweir.local", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
        )  # fmt: skip
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            with contextlib.suppress(OSError):
                if self.get("/readyz", raw=True) == "ok" and self.get("/api/v1/namespaces/default"):
                    return
            if self._processes["kube-apiserver"].poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "kube-apiserver.log").read_text()
                raise RuntimeError(f"kube-apiserver does not start: {log[-2000:]}")
            time.sleep(0.1)

    def kill_server(self) -> None:
        """SIGKILL: with etcd gone it would linger for a minute."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def close(self) -> None:
        """End both."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    @property
    def authority(self) -> Path:
        """The certificate that the server made for itself."""
        return self._folder / "certificates" / "apiserver.crt"

    def kubeconfig(self, user: str, port: int | None = None) -> Path:
        """A kubeconfig for a user, perhaps by way of another port."""
        path = self._folder / f"kubeconfig-{user}-{port or self.port}"
        server = {
            "server": f"https://127.0.0.1:{port or self.port}",
            "certificate-authority-data": base64.b64encode(self.authority.read_bytes()).decode(),
        }
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "test", "user": {"token": TOKENS[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }  # fmt: skip
        path.write_text(json.dumps(config))
        return path

    def compact(self) -> None:
        """Make etcd forget every version but the last."""
        status = self._etcd("/v3/maintenance/status", {})
        self._etcd("/v3/kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def load(self, objects: Iterable[dict[str, Any]]) -> None:
        """Put many objects into etcd as they are, status and UID too: a hundred times as fast as by the server, which
        reads JSON there as well as what it writes itself."""
        for some in _batches(objects, _MOST_IN_ONE):
            puts = [
                {"requestPut": {"key": _base64(_etcd_key(one).encode()), "value": _base64(json.dumps(one).encode())}}
                for one in some
            ]
            self._etcd("/v3/kv/txn", {"success": puts})

    def wait_for_pods(self, count: int) -> None:
        """Until the server has read so many pods of those that were loaded."""
        deadline = time.monotonic() + 300
        while 1 + self.get("/api/v1/pods?limit=1")["metadata"].get("remainingItemCount", 0) < count:
            if time.monotonic() > deadline:
                raise RuntimeError("the server does not read what is in etcd")
            time.sleep(0.2)

    def _etcd(self, path: str, body: dict[str, Any]) -> Any:
        url = f"http://127.0.0.1:{self._etcd_port}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
            return json.load(answer)

    def get(self, path: str, *, raw: bool = False) -> Any:
        """An object."""
        return self.call("GET", path, raw=raw)

    def create(self, path: str, body: dict[str, Any]) -> Any:
        """A new object in a collection."""
        return self.call("POST", path, body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """A merge patch (RFC 7386)."""
        return self.call("PATCH", path, body, content="application/merge-patch+json")

    def delete(self, path: str) -> Any:
        """At once, without grace."""
        return self.call("DELETE", f"{path}?gracePeriodSeconds=0")

    def call(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json", raw: bool = False
    ) -> Any:
        """A request as the administrator."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": content},
            method=method,
        )
        context = ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S, context=context) as answer:  # noqa: S310
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            detail = error.read().decode()
            error.close()
            raise OSError(f"{method} {path}: {error.code} {detail}") from None
        return text if raw else json.loads(text)

    def status_with(self, token: str) -> int:
        """What a request with that token is answered."""
        url = f"https://127.0.0.1:{self.port}/api/v1/namespaces"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        context = ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S, context=context) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def _run(self, program: str, *arguments: str) -> None:
        with (self._folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(
                [self._binaries / program, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )


def _batches(objects: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    rest = iter(objects)
    while some := list(itertools.islice(rest, size)):
        yield some


def _etcd_key(item: dict[str, Any]) -> str:
    meta = item["metadata"]
    place = f"{meta['namespace']}/" if "namespace" in meta else ""
    return f"/registry/{_COLLECTIONS[item['kind']]}/{place}{meta['name']}"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class Caller:
    """Requests as the administrator on one connection: for thousands of them."""

    def __init__(self, api: ApiServer) -> None:
        context = ssl.create_default_context(cafile=str(api.authority))
        self._connection = http.client.HTTPSConnection("127.0.0.1", api.port, context=context, timeout=_PATIENCE_S)

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The answer's object."""
        headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": kind}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, (method, path, answer.status, text)
        return json.loads(text)

    def create(self, path: str, body: dict[str, Any]) -> str:
        """A new object in a collection; its UID."""
        return str(self.call("POST", path, body)["metadata"]["uid"])

    def status(self, path: str, status: dict[str, Any]) -> None:
        """Set parts of an object's status."""
        self.call("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """At once, without grace."""
        self.call("DELETE", f"{path}?gracePeriodSeconds=0")

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class Way:
    """A TCP way to a port that can be cut and mended."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open = True
        self._sockets: set[socket.socket] = set()
        self._hung: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        self._open = False
        for end in tuple(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Let nothing more through the connections that there are, without ending them."""
        self._hung = set(self._sockets)

    def mend(self) -> None:
        """Let connections through again."""
        self._open = True

    def close(self) -> None:
        """End all of it."""
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if not self._open:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._sockets |= {near, far}
            self._start(self._pump, near, far)
            self._start(self._pump, far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if source not in self._hung:
                    sink.sendall(block)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()
