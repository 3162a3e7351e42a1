"""Install kubeweir on the cluster as a user would: build its image, start a Kafka, `kubectl apply -k` an overlay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kube.plan import HOME, HOST_4, ROOT, ClusterError
from kube.processes import MARK

OVERLAY: Final = HOME / "install"
_KAFKA: Final = HOME / "kafka"
_PARTITIONS: Final = 4


def start_kafka(say: Callable[[str], None]) -> str:
    """Start Apache Kafka on the nodes' network, unless it was started before, and return its address.

    It carries the mark of the cluster's processes, so that removing the cluster ends it.
    """
    program = ROOT / "deploy/local/kafka"
    saved = _KAFKA / "address"
    if saved.exists():
        return saved.read_text()
    say("starting Apache Kafka")
    done = subprocess.run(
        [sys.executable, str(program), "start", "--host", HOST_4, "--dir", str(_KAFKA)], stdout=subprocess.PIPE,
        text=True, check=False, env={**os.environ, MARK: "kafka"},
    )  # fmt: skip
    if done.returncode:
        raise ClusterError("Apache Kafka did not start, see above")
    saved.write_text(done.stdout.strip())
    return saved.read_text()


def build_image() -> Path:
    """Return the archive of kubeweir's image, and build it if it is not in the cache."""
    done = subprocess.run([ROOT / "deploy/image/build"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ClusterError("the image cannot be built, see above", done.returncode)
    return Path(done.stdout.strip())


def write_overlay(kafka: str) -> Path:
    """Write a kustomize overlay with settings over the tree's manifests; return its folder for `kubectl apply -k`."""
    OVERLAY.mkdir(exist_ok=True)
    settings = [f"WEIR_KAFKA={kafka}", f"WEIR_PARTITIONS={_PARTITIONS}"]
    (OVERLAY / "kustomization.yaml").write_text(
        json.dumps(
            {
                # kustomize refuses absolute paths.
                "resources": [os.path.relpath(ROOT / "deploy/kubernetes", OVERLAY)],
                "namespace": "kubeweir",
                "configMapGenerator": [{"name": "kubeweir-settings", "behavior": "merge", "literals": settings}],
            }
        )
    )
    return OVERLAY
