"""One cluster with kubeweir for all tests of this folder, which depend on each other and run in the order of the files.

The apps client and stranger are deployed before kubeweir, all others after it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.whole.real import ROOT, Real, deployment, run, service
from tests.cluster.whole.started import is_running, started
from tests.cluster.whole.story import guard


@pytest.fixture(scope="package")
def image() -> str:
    """Build kubeweir's image and return its archive."""
    if shutil.which("go") is None and subprocess.run([ROOT / "deploy/local/binaries", "--if-built", "cluster"],
                                                     capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("needs Go, to build Kubernetes (deploy/local/binaries): no test ran on a real cluster")
    return run(ROOT / "deploy/image/build", timeout_s=3600).strip()


@pytest.fixture(scope="package")
def real(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Start a cluster with Kafka and kubeweir. The environment variables CNI and PROXY choose its kind."""
    if is_running():
        pytest.skip("a cluster is already running, and these tests start their own: remove it with make cluster-down")
    with started(tmp_path_factory.mktemp("cluster"), image) as cluster:
        install(cluster)
        yield cluster


def install(real: Real) -> None:
    """Install kubeweir as a user does it, with settings in an overlay."""
    shutil.copytree(ROOT / "deploy/kubernetes", real.folder / "kubernetes")
    real.write_overlay()
    real.kubectl("apply", "-k", real.overlay, "--validate=strict")
    real.wait_rolled_out("ds/weir-probe")
    real.apply(deployment("web", 2), service("web", type="NodePort"))
    real.wait_rolled_out("deploy/weir-streams")
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
    """From here on, a policy allows only client to connect to web."""
    guard(real)
