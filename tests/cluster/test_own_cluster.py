"""The cluster's id, as a real API server has it."""

from __future__ import annotations

import pytest

from enrich.sources.own_cluster import UnknownClusterError, cluster_id_finder
from tests.cluster.apiserver import ApiServer
from tests.waiting import until

pytestmark = pytest.mark.cluster


def test_the_id_is_the_uid_of_kube_system_and_nobody_guesses_it(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("admin")))
    find = cluster_id_finder("kubernetes")

    def found() -> str:
        # A new API server makes the namespace soon after its start.
        try:
            return find()
        except UnknownClusterError:
            return ""

    until(lambda: bool(found()))
    assert found() == api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("reader")))
    with pytest.raises(UnknownClusterError, match="403"):
        cluster_id_finder("kubernetes")()
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("admin", 1)))
    with pytest.raises(UnknownClusterError):
        cluster_id_finder("kubernetes")()
