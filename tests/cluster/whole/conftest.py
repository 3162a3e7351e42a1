"""One cluster with kubeweir on it for all tests of this folder, which are one story in the order of their files.

Two apps are older than kubeweir, the others come after it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.whole.real import HOST, NAMESPACE, PROGRAM, ROOT, SYSTEM, Real, deployment, run, service
from tests.cluster.whole.story import guard


@pytest.fixture(scope="package")
def image() -> str:
    """The archive of kubeweir's image."""
    if shutil.which("go") is None and subprocess.run([ROOT / "deploy/local/binaries", "--if-built", "cluster"],
                                                     capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("needs Go, to build Kubernetes (deploy/local/binaries): no test ran on a real cluster")
    return run(ROOT / "deploy/image/build", patience_s=3600).strip()


@pytest.fixture(scope="package")
def real(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """The cluster, with Kafka and kubeweir. CNI and PROXY choose its kind."""
    if subprocess.run([PROGRAM, "status"], capture_output=True, check=False).returncode == 0:
        pytest.skip("a cluster is up already: take it down (make cluster-down), and the tests make their own")
    folder = tmp_path_factory.mktemp("cluster")
    options = [f"--{name.lower()}={os.environ[name]}" for name in ("CNI", "PROXY") if os.environ.get(name)]
    made = None
    try:
        run(PROGRAM, "up", *options, patience_s=3600)
        made = Real(folder)
        with ThreadPoolExecutor(2) as pool:
            kafka = pool.submit(run, ROOT / "deploy/local/kafka", "start", "--host", HOST, "--dir", folder / "kafka")
            loaded = pool.submit(run, PROGRAM, "load", image)
            made.kubectl("create", "namespace", NAMESPACE)
            made.watch_pods()
            made.apply(deployment("client", 2), deployment("stranger"))
            made.kafka = kafka.result().strip()
            loaded.result()
        made.wait_ready("client", "stranger")
        install(made)
        yield made
    finally:
        if made is not None:
            made.close()
        run(PROGRAM, "down")
        run(ROOT / "deploy/local/kafka", "stop", "--dir", folder / "kafka")


def install(real: Real) -> None:
    """As a user does it: their settings in an overlay."""
    shutil.copytree(ROOT / "deploy/kubernetes", real.folder / "kubernetes")
    real.write_overlay()
    real.kubectl("apply", "-k", real.overlay, "--validate=strict")
    real.kubectl("-n", SYSTEM, "rollout", "status", "ds/weir-probe", "--timeout=240s")
    real.apply(deployment("web", 2), service("web", type="NodePort"))
    real.kubectl("-n", SYSTEM, "rollout", "status", "deploy/weir-streams", "--timeout=240s")
    real.wait_ready("web")


@pytest.fixture
def web(real: Real) -> list[dict[str, Any]]:
    return real.pods("web")


@pytest.fixture
def clients(real: Real) -> list[dict[str, Any]]:
    return real.pods("client")


@pytest.fixture
def stranger(real: Real) -> dict[str, Any]:
    return real.pods("stranger")[0]


@pytest.fixture(scope="package")
def guarded(real: Real) -> None:
    """web is for client only, from here on."""
    guard(real)
