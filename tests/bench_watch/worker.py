"""One measurement in its own process, so that its memory is that of this measurement. It prints one line of JSON.

Arguments: the reader, the API server's port or a kubeconfig, the number of pods, changes per second, seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import structlog

from enrich.model import Name
from tests.bench_watch.readers import READERS
from tests.bench_watch.server import event, make_pod

_TIMED_CHANGES: Final = 100
"""The number of changes that are timed one by one, for each second of the measurement."""
_IDLE_SHARE: Final = 0.2
"""The time without changes, as a share of the time with changes."""


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _post(connection: http.client.HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/change", body)
    connection.getresponse().read()


def _marked(number: int, mark: str, version: int) -> bytes:
    pod = make_pod(number, version)
    pod["metadata"]["labels"]["mark"] = mark
    return event("MODIFIED", pod)


def _latencies(reader: Any, connection: http.client.HTTPConnection, pods: int, events: int) -> list[float]:
    """Return the milliseconds from a change at the server to the index for each of some changes, sorted."""
    found = []
    for turn in range(events):
        number = turn * 7919 % pods
        meta = make_pod(number)["metadata"]
        name = Name(meta["namespace"], meta["name"])
        body = _marked(number, str(turn), 1_000_000 * (turn + 1))
        started = time.perf_counter()
        _post(connection, body)
        while not reader.has(name, str(turn)):
            if not reader.changed.wait(30):
                raise RuntimeError("a change did not arrive within 30 s")
            reader.changed.clear()
        found.append((time.perf_counter() - started) * 1000)
    return sorted(found)


def _churn(connection: http.client.HTTPConnection, pods: int, rate: int, seconds: float) -> dict[str, float]:
    """Return CPU and bytes of the watch under ``rate`` changes per second, without the CPU of this thread's sending."""
    step = rate // 10
    prepared = [
        b"".join(_marked(n % pods, str(n), 10**9 + n) for n in range(turn * step, turn * step + step))
        for turn in range(int(seconds * 10))
    ]
    cpu, own, started, size = time.process_time(), time.thread_time(), time.monotonic(), 0
    for body in prepared:
        _post(connection, body)
        size += len(body)
        time.sleep(0.1)
    took = time.monotonic() - started
    return {
        "churn_cpu_percent": 100 * (time.process_time() - cpu - time.thread_time() + own) / took,
        "churn_changes_per_s": len(prepared) * step / took,
        "churn_bytes_per_s": size / took,
    }


def _idle(seconds: float) -> dict[str, float]:
    """Return the CPU of the watch while nothing changes."""
    cpu, own = time.process_time(), time.thread_time()
    time.sleep(seconds)
    return {"standing_cpu_percent": max(0.0, 100 * (time.process_time() - cpu - time.thread_time() + own) / seconds)}


def main() -> None:
    """Measure, and print the figures."""
    what, where, pods, rate, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    reader = READERS[what](where)
    memory, cpu, started = _memory(), time.process_time(), time.perf_counter()
    reader.sync(pods)
    row: dict[str, Any] = {
        "what": what, "sync_s": time.perf_counter() - started, "sync_cpu_s": time.process_time() - cpu,
        "memory_mb": (_memory() - memory) / 1e6, **reader.facts(),
    }  # fmt: skip
    if where.isdigit():
        connection = http.client.HTTPConnection("127.0.0.1", int(where))
        latencies = _latencies(reader, connection, pods, int(_TIMED_CHANGES * seconds))
        row |= {"event_ms_p50": latencies[len(latencies) // 2], "event_ms_p99": latencies[int(len(latencies) * 0.99)]}
        if rate and what == "ours":
            row |= _churn(connection, pods, rate, seconds) | _idle(seconds * _IDLE_SHARE)
    print(json.dumps(row), flush=True)
    os._exit(0)  # the informer's thread does not end by itself


if __name__ == "__main__":
    main()
