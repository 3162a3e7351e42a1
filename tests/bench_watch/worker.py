"""One measurement, in a process of its own, so that memory is this measurement's: prints one line of JSON.

Arguments: ours or informer, the API server's port or a kubeconfig, the number of pods, changes a second, seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import kubernetes
import structlog

from enrich.cluster import Cluster
from enrich.model import Name, Pod
from enrich.sources.kubernetes import KubernetesSource
from tests.bench_watch.server import event, make_pod

_EVENTS: Final = 200
_WAIT_S: Final = 600


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _client(where: str) -> Any:
    if not where.isdigit():
        return kubernetes.config.new_client_from_config(where)
    return kubernetes.client.ApiClient(kubernetes.client.Configuration(host=f"http://127.0.0.1:{where}"))


class _Ours:
    """The source and its index, with pods only."""

    def __init__(self, where: str) -> None:
        self._cluster = Cluster(kinds=(Pod,))
        self._source = KubernetesSource(self._cluster, lambda: _client(where))
        self._version = ""

    def sync(self, _pods: int) -> None:
        self._source.start()
        if not self._cluster.synced.wait(_WAIT_S):
            raise RuntimeError(f"not in sync: {self._source.problem()}")

    def has(self, namespace: str, name: str, mark: str) -> bool:
        pod = self._cluster._objects[Pod].get(Name(namespace, name))
        return pod is not None and pod.labels.get("mark") == mark

    def count(self) -> int:
        return self._cluster.counts()["Pod"]


class _Informer:
    """The official client's SharedInformer."""

    def __init__(self, where: str) -> None:
        from kubernetes.informer import SharedInformer

        self._informer = SharedInformer(kubernetes.client.CoreV1Api(_client(where)).list_pod_for_all_namespaces)

    def sync(self, pods: int) -> None:
        self._informer.start()
        deadline = time.monotonic() + _WAIT_S
        while self.count() < pods and time.monotonic() < deadline:
            time.sleep(0.005)

    def has(self, namespace: str, name: str, mark: str) -> bool:
        pod = self._informer.cache.get_by_key(f"{namespace}/{name}")
        return pod is not None and (pod.metadata.labels or {}).get("mark") == mark

    def count(self) -> int:
        return len(self._informer.cache.list())


def _post(connection: http.client.HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/change", body)
    connection.getresponse().read()


def _marked(number: int, mark: str, version: int) -> bytes:
    pod = make_pod(number, version)
    pod["metadata"]["labels"]["mark"] = mark
    return event("MODIFIED", pod)


def _latencies(subject: Any, connection: http.client.HTTPConnection, pods: int) -> list[float]:
    """Milliseconds from a change at the server to the index, one at a time."""
    found = []
    for turn in range(_EVENTS):
        number = turn * 7919 % pods
        meta = make_pod(number)["metadata"]
        body = _marked(number, str(turn), 1_000_000 * (turn + 1))
        began = time.perf_counter()
        _post(connection, body)
        while not subject.has(meta["namespace"], meta["name"], str(turn)):
            if time.perf_counter() - began > 30:
                raise RuntimeError("a change did not come")
            time.sleep(0.0002)
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def _churn(connection: http.client.HTTPConnection, pods: int, rate: int, seconds: float) -> dict[str, float]:
    """CPU and bytes of the watch under so many changes a second; what making them costs here is taken off."""
    step = rate // 10
    prepared = [
        b"".join(_marked(n % pods, str(n), 10**9 + n) for n in range(turn * step, turn * step + step))
        for turn in range(int(seconds * 10))
    ]
    cpu, own, began, size = time.process_time(), time.thread_time(), time.monotonic(), 0
    for body in prepared:
        _post(connection, body)
        size += len(body)
        time.sleep(0.1)
    took = time.monotonic() - began
    return {
        "churn_cpu_percent": 100 * (time.process_time() - cpu - time.thread_time() + own) / took,
        "churn_changes_per_s": len(prepared) * step / took,
        "churn_bytes_per_s": size / took,
    }


def main() -> None:
    """Measure, and print."""
    what, where, pods, rate, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    subject: Any = _Ours(where) if what == "ours" else _Informer(where)
    memory, cpu, began = _memory(), time.process_time(), time.perf_counter()
    subject.sync(pods)
    row: dict[str, Any] = {
        "what": what, "pods": subject.count(), "sync_s": time.perf_counter() - began,
        "sync_cpu_s": time.process_time() - cpu, "memory_mb": (_memory() - memory) / 1e6,
    }  # fmt: skip
    if where.isdigit():
        connection = http.client.HTTPConnection("127.0.0.1", int(where))
        latencies = _latencies(subject, connection, pods)
        row |= {"event_ms_p50": latencies[len(latencies) // 2], "event_ms_p99": latencies[int(len(latencies) * 0.99)]}
        if rate and what == "ours":
            row |= _churn(connection, pods, rate, seconds)
    print(json.dumps(row), flush=True)
    os._exit(0)  # the informer's thread does not end by itself


if __name__ == "__main__":
    main()
