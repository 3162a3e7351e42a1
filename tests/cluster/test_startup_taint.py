"""A node's taint is taken off by a real API server once policy is installed, and no other taint with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import kubernetes
import pytest

from enrich.sources.client import Client
from probe.node.startup_taint import StartupTaint
from tests.cluster.apiserver import ApiServer
from tests.waiting import until

pytestmark = pytest.mark.cluster

KEY = "kubeweir.io/not-ready"
OTHER = {"key": "example.org/other", "effect": "NoSchedule", "value": "x"}


@pytest.fixture
def node(api: ApiServer) -> Iterator[str]:
    taints = [OTHER, {"key": KEY, "effect": "NoSchedule"}, {"key": KEY, "effect": "NoExecute"}]
    api.create("/api/v1/nodes", {"metadata": {"name": "fresh"}, "spec": {"taints": taints}})
    yield "fresh"
    api.call("DELETE", "/api/v1/nodes/fresh")


def test_the_taint_is_removed_once_policy_is_installed(api: ApiServer, node: str) -> None:
    config = str(api.kubeconfig("admin"))
    client = Client(lambda: kubernetes.config.new_client_from_config(config))
    client.connect()
    asked, ready = threading.Event(), threading.Event()

    def is_ready() -> bool:
        asked.set()
        return ready.is_set()

    def keys() -> list[Any]:
        found = api.get(f"/api/v1/nodes/{node}")["spec"].get("taints", [])
        # The server's own admission adds one of its own.
        return [taint["key"] for taint in found if not taint["key"].startswith("node.kubernetes.io/")]

    taint = StartupTaint(KEY, node, client, is_ready)
    taint.start()
    try:
        assert asked.wait(240)
        assert keys() == [OTHER["key"], KEY, KEY]
        ready.set()
        until(lambda: keys() == [OTHER["key"]])
    finally:
        taint.stop()
