"""The real API server, built once from Go modules and started once for all tests here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.apiserver import ApiServer

_PROGRAM = Path(__file__).parents[2] / "deploy/local/binaries"


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder of etcd and kube-apiserver."""
    built = subprocess.run([_PROGRAM, "--if-built"], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        if shutil.which("go") is None:
            pytest.skip("needs Go, to build etcd and kube-apiserver (deploy/local/binaries)")
        built = subprocess.run([_PROGRAM], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())


@pytest.fixture(scope="module")
def api(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server that is ready."""
    server = ApiServer(binaries, tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        yield server
    finally:
        server.close()
