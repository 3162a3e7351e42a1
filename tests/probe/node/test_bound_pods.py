"""The file of bound pods, on a disk that takes nothing for a while."""

from __future__ import annotations

from pathlib import Path

from enrich.model import Namespace, Pod
from probe.node.bound_pods import BoundPods

POD = Pod("shop", "web", "uid-web", {"app": "web"}, ("10.0.0.1",), "n1")


def test_a_disk_that_takes_nothing_stops_nothing_and_has_the_pods_once_it_does(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "pods"
    saved = BoundPods(path)
    saved.save([POD], [Namespace("shop", "uid-shop", {})])
    assert saved.pods == {"uid-web": POD}
    path.parent.mkdir()
    saved.save([POD], [Namespace("shop", "uid-shop", {})])
    assert BoundPods(path).pods == {"uid-web": POD}
