"""The real API server, built once from Go modules and started once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.apiserver import ApiServer
from tests.cluster.rendering import built


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder of etcd and kube-apiserver."""
    return built("apiserver", "kube-apiserver").parent


@pytest.fixture(scope="module")
def api(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server that is ready."""
    server = ApiServer(binaries, tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        yield server
    finally:
        server.close()
