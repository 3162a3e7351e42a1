"""The cluster's id in a folder of manifests. tests/cluster asks a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrich.sources.own_cluster import UnknownClusterError, cluster_id_finder
from enrich.sources.source import SourceError

_NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, uid: {name}-uid}}\n"


def test_the_id_is_the_uid_of_kube_system(tmp_path: Path) -> None:
    find = cluster_id_finder(f"manifests:{tmp_path}")
    assert find() == ""
    (tmp_path / "a.yaml").write_text(_NAMESPACE.format(name="shop"))
    assert find() == ""
    (tmp_path / "b.yaml").write_text(_NAMESPACE.format(name="kube-system"))
    assert find() == "kube-system-uid"
    (tmp_path / "a.yaml").write_text("kind: [")
    with pytest.raises(UnknownClusterError, match=r"a\.yaml"):
        find()


@pytest.mark.parametrize("setting", ["", "manifests:", "kubernetes:x", "files"])
def test_a_source_that_does_not_exist_is_refused(setting: str) -> None:
    with pytest.raises(SourceError, match="must be kubernetes, or manifests:FOLDER"):
        cluster_id_finder(setting)


def test_without_a_configuration_of_the_api_there_is_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    with pytest.raises(SourceError, match="no Kubernetes configuration"):
        cluster_id_finder("kubernetes")
