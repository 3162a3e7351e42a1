"""Starts a cluster with Kafka and the first pods, before kubeweir is there, and removes it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.whole.real import HOST, NAMESPACE, PROGRAM, ROOT, Real, deployment, run

_KAFKA = ROOT / "deploy/local/kafka"


def is_running() -> bool:
    """Return whether this machine has a cluster, of which there can be only one."""
    return subprocess.run([PROGRAM, "status"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def started(folder: Path, image: str) -> Iterator[Real]:
    """Start a cluster whose nodes have the image, given by its archive; CNI and PROXY in the environment choose its
    kind. The apps client and stranger run in it. ``folder`` exists, and is for Kafka's data and the tests' own files.
    """
    cluster = None
    try:
        options = [f"--{name.lower()}={os.environ[name]}" for name in ("CNI", "PROXY") if os.environ.get(name)]
        run(PROGRAM, "up", *options, timeout_s=3600)
        cluster = Real(folder)
        with ThreadPoolExecutor(2) as pool:
            kafka = pool.submit(run, _KAFKA, "start", "--host", HOST, "--dir", folder / "kafka")
            loaded = pool.submit(run, PROGRAM, "load", image)
            cluster.kubectl("create", "namespace", NAMESPACE)
            cluster.watch_pods()
            cluster.apply(deployment("client", 2), deployment("stranger"))
            cluster.kafka = kafka.result().strip()
            loaded.result()
        cluster.wait_ready("client", "stranger")
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()
        run(PROGRAM, "down")
        run(_KAFKA, "stop", "--dir", folder / "kafka")
