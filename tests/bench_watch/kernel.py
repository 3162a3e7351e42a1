"""Measure the time from a change at a real API server to the kernel's map, with `weir-probe` as a process.

The cluster is that of :mod:`tests.bench_policy`: 10,000 pods and 1,000 policies. The node's own pods have real veth
pairs. A change is in force when the epoch in the maps has changed; nothing else changes it here. The time at which a
reader that only reads has received the event is measured too. There is no Kafka, without which the probe enforces just
the same.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from netns import Net

from probe.kernel import bpf
from probe.kernel.layout import Config
from tests.bench_policy import documents, policy
from tests.bench_watch.readers import Nobody
from tests.cluster.apiserver import ApiServer, Caller
from tests.e2e.node import Probe

_LOCAL: Final = 20
_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.0002
_MERGE: Final = "application/merge-patch+json"
_POLICIES: Final = "/apis/networking.k8s.io/v1/networkpolicies"


class _Epochs(threading.Thread):
    """A thread that notes when the epoch in the kernel's map changes."""

    def __init__(self, pins: Path) -> None:
        super().__init__(daemon=True)
        self.changed_at: list[float] = []
        self._fd = bpf.get(next(pins.glob("*/config")))
        self._over = threading.Event()

    def run(self) -> None:
        key, last = int(Config.EPOCH).to_bytes(4, "little"), b""
        while not self._over.is_set():
            now = bpf.lookup(self._fd, key, 8) or b""
            if now != last:
                self.changed_at.append(time.perf_counter())
                last = now
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()
        os.close(self._fd)


def measure(binaries: Path, folder: Path, pods: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each kind of change: milliseconds after the request was sent, and after the response."""
    server, net = ApiServer(binaries, folder / "api"), Net()
    try:
        server.start()
        cluster = [one for one in documents(pods, _LOCAL) if one["kind"] != "ClusterNetworkPolicy"]
        fresh = [_without_address(one) for one in _elsewhere(cluster)[:rounds]]
        server.load([_stored(one) for one in cluster + fresh])
        server.wait_for_pods(pods + rounds)
        node = net.node()
        local = [one for one in cluster if one["kind"] == "Pod" and one["spec"]["nodeName"] == "node0"]
        for one in local:
            net.pod(node, one["status"]["podIPs"][0]["ip"])
        with _probe(server, folder, node.path, len(local)) as pins:
            epochs = _Epochs(pins)
            epochs.start()
            try:
                rows = [_addresses(server, epochs, fresh), _policies(server, epochs, cluster, local, rounds)]
            finally:
                epochs.stop()
        return [{"pods": pods, "policies": sum(one["kind"] == "NetworkPolicy" for one in cluster), **row}
                for row in rows]  # fmt: skip
    finally:
        net.close()
        server.close()


def _stored(document: dict[str, Any]) -> dict[str, Any]:
    meta = {"uid": secrets.token_hex(16), "creationTimestamp": "2026-01-01T00:00:00Z", **document["metadata"]}
    return {**document, "metadata": meta}


def _elsewhere(cluster: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in cluster if one["kind"] == "Pod" and one["spec"]["nodeName"] != "node0"]


def _without_address(pod: dict[str, Any]) -> dict[str, Any]:
    meta = {**pod["metadata"], "name": f"new-{pod['metadata']['name']}"}
    return {**pod, "metadata": meta, "status": {"phase": "Pending"}}


@contextmanager
def _probe(server: ApiServer, folder: Path, node: Path, local: int) -> Iterator[Path]:
    pins = Path("/sys/fs/bpf") / f"kubeweir-bench-{secrets.token_hex(3)}"
    env = {
        **os.environ,
        "KUBECONFIG": str(server.kubeconfig("admin")), "WEIR_SOURCE": "kubernetes", "WEIR_KAFKA": "127.0.0.1:1",
        "WEIR_NODE": "node0", "WEIR_NETNS": str(node), "WEIR_PIN_DIR": str(pins), "WEIR_RUN_DIR": str(folder / "run"),
        "WEIR_STATE_DIR": str(folder / "state"), "WEIR_METRICS": "127.0.0.1:0", "WEIR_LOG_FORMAT": "json",
    }  # fmt: skip
    probe = Probe(env, folder / "probe.log")
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while probe.metric("kubeweir_probe_attached_pods") < local or "policy:" in probe.get("/readyz")[1]:
            if time.monotonic() > deadline:
                raise RuntimeError(probe.log.read_text()[-2000:])
            time.sleep(0.5)
        yield pins
    finally:
        probe.stop()
        shutil.rmtree(pins, ignore_errors=True)


def _addresses(server: ApiServer, epochs: _Epochs, fresh: list[dict[str, Any]]) -> dict[str, Any]:
    """Measure changes in which a pod of another node gets its address."""
    watcher = Nobody(str(server.kubeconfig("admin")), mark=re.compile(rb'"podIP":"([^"]+)"'))
    watcher.sync(len(fresh))
    writes = []
    for number, pod in enumerate(fresh):
        ip = f"11.0.{number >> 8}.{number & 255}"
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
        writes.append((path, {"status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}}, ip))
    return {"change": "pod gets its address", **_times(server, epochs, watcher, writes)}


def _policies(
    server: ApiServer, epochs: _Epochs, cluster: list[dict[str, Any]], local: list[dict[str, Any]], rounds: int
) -> dict[str, Any]:
    """Measure changes in which a policy of the node's own pods allows another app to another port."""
    watcher = Nobody(str(server.kubeconfig("admin")), _POLICIES, re.compile(rb'"port":(\d+)'))
    watcher.sync(0)
    here = {(pod["metadata"]["namespace"], pod["metadata"]["labels"]["app"]) for pod in local}
    mine = [
        one for one in cluster
        if one["kind"] == "NetworkPolicy" and "ingress" in one["spec"]
        and (one["metadata"]["namespace"], one["spec"]["podSelector"]["matchLabels"]["app"]) in here
    ]  # fmt: skip
    writes = []
    for number in range(rounds):
        meta = mine[number % len(mine)]["metadata"]
        # Kinds 1 to 4 of bench_policy's policies allow an app to connect to a port.
        spec = policy(100 * (1 + number % 4), 100, port=20_000 + number)["spec"]
        path = f"/apis/networking.k8s.io/v1/namespaces/{meta['namespace']}/networkpolicies/{meta['name']}"
        writes.append((path, {"spec": {"ingress": spec["ingress"]}}, str(20_000 + number)))
    return {"change": "policy changes", **_times(server, epochs, watcher, writes)}


def _times(
    server: ApiServer, epochs: _Epochs, watcher: Nobody, writes: list[tuple[str, dict[str, Any], str]]
) -> dict[str, float]:
    caller = Caller(server)
    sent, answered, nobody = [], [], []
    for path, body, mark in writes:
        before, started = len(epochs.changed_at), time.perf_counter()
        caller.call("PATCH", path, body, _MERGE)
        answer = time.perf_counter()
        while len(epochs.changed_at) == before or mark not in watcher.seen:
            if time.perf_counter() - started > 30:
                raise RuntimeError(f"the change of {path} is not in force after 30 s")
            time.sleep(0.001)
        sent.append(1000 * (epochs.changed_at[before] - started))
        answered.append(1000 * max(0.0, epochs.changed_at[before] - answer))
        nobody.append(1000 * (watcher.seen[mark] - started))
    caller.close()
    return {
        f"{name}_ms_{what}": sorted(values)[int(len(values) * part)]
        for name, values in (("sent", sent), ("answered", answered), ("nobody", nobody))
        for what, part in (("p50", 0.5), ("p99", 0.99))
    }
