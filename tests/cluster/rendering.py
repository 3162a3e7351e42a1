"""Renders the manifests as users do: by ``kubectl kustomize``, and by ``helm template``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
MANIFESTS: Final = ROOT / "deploy/kubernetes"
CHART: Final = ROOT / "deploy/helm/kubeweir"
_PROGRAM: Final = ROOT / "deploy/local/binaries"

Objects = dict[tuple[str, str, str], dict[str, Any]]
"""Objects by kind, namespace and name."""


def built(binaries: str, program: str) -> Path:
    """Return a program of deploy/local/binaries; build it if it is missing, skip the test without Go."""
    how = ["--if-built"] if shutil.which("go") is None else []
    done = subprocess.run([_PROGRAM, *how, binaries], stdout=subprocess.PIPE, text=True, check=False)
    if how and done.returncode:
        pytest.skip(f"needs Go, to build {program} (deploy/local/binaries {binaries})")
    assert done.returncode == 0, f"deploy/local/binaries says above why {program} could not be built"
    return Path(done.stdout.strip()) / program


def objects(text: str) -> Objects:
    """Return the rendered objects without Helm's tests, which kustomize does not have."""
    found: Objects = {}
    for one in yaml.safe_load_all(text):
        meta = one["metadata"] if one else {}
        if one and "helm.sh/hook" not in meta.get("annotations", {}):
            key = one["kind"], meta.get("namespace", ""), meta["name"]
            assert key not in found, f"{key} is rendered twice"
            found[key] = sorted_lists(one)
    return found


def sorted_lists(value: Any) -> Any:
    """Return the value with lists of named things in the order of their names, which Kubernetes does not look at."""
    if isinstance(value, dict):
        return {key: sorted_lists(one) for key, one in value.items()}
    if isinstance(value, list):
        return sorted((sorted_lists(one) for one in value), key=_sort_key) if _is_named(value) else value
    return value


def _is_named(values: list[Any]) -> bool:
    return all(isinstance(one, dict) and ("mountPath" in one or "name" in one) for one in values)


def _sort_key(value: dict[str, Any]) -> str:
    return str(value.get("mountPath", value.get("name")))


def kustomize(kubectl: Path, folder: Path) -> Objects:
    """Render a kustomization."""
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def with_components(kubectl: Path, folder: Path, components: Iterable[str]) -> Objects:
    """Render the manifests with components."""
    return kustomize(kubectl, folder_with_components(folder, components))


def folder_with_components(folder: Path, components: Iterable[str]) -> Path:
    """Copy the manifests, with components named in their kustomization.yaml as its documentation says."""
    copy = folder / "-".join(["kubernetes", *components])[:100]
    shutil.copytree(MANIFESTS, copy)
    with (copy / "kustomization.yaml").open("a") as file:
        file.write(f"components: [{', '.join(f'components/{one}' for one in components)}]\n")
    return copy


def template(helm: Path, *arguments: str | Path, namespace: str = "kubeweir") -> Objects:
    """Render the chart, with the namespace object."""
    done = run_helm(helm, "template", "kubeweir", CHART, "-n", namespace, "--set", "namespace.create=true", *arguments)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def run_helm(helm: Path, *arguments: str | Path, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm, without what the user of this machine has configured."""
    environment = {"PATH": "", "HOME": "/nonexistent", **({"KUBECONFIG": str(config)} if config else {})}
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False, env=environment)


def differences(ours: Objects, theirs: Objects) -> dict[str, Any]:
    """Return the objects that only one of both has, or that differ; empty if both are the same."""
    return {
        "/".join(key): {
            "only in one" if key not in ours or key not in theirs else "differs": (ours.get(key), theirs.get(key))
        }
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key)
    }
