"""Network plugins with a datapath of their own, by which pods' packets may pass by kubeweir's programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_PLUGINS: Final = {
    "cilium-cni": "Cilium",
    "antrea": "Antrea",
    "ovn-k8s-cni-overlay": "OVN-Kubernetes",
    "kube-ovn": "Kube-OVN",
}
"""Their types in CNI configurations. GKE Dataplane V2 is Cilium: it chains cilium-cni behind ptp."""
_SUFFIXES: Final = (".conf", ".conflist", ".json")
"""Files that container runtimes read. The first by name counts."""


def first_configuration(folder: Path) -> Path | None:
    """Return the file that the runtime uses. Raises OSError."""
    return next(configurations(folder), None)


def configurations(folder: Path) -> Iterator[Path]:
    """Yield the files that a runtime reads, in its order."""
    yield from sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES and path.is_file())


def datapath_of(text: str) -> tuple[str, str] | None:
    """Return the datapath that a CNI configuration names, and the type of its plugin; None if it names none."""
    try:
        config = json.loads(text)
    except ValueError:
        return None
    return next(((_PLUGINS[name], name) for name in _types(config) if name in _PLUGINS), None)


def _types(config: Any) -> Iterator[str]:
    """Yield the types of all plugins, also of those to which a plugin such as Multus delegates."""
    if isinstance(config, list):
        for one in config:
            yield from _types(one)
    elif isinstance(config, dict):
        if isinstance(name := config.get("type"), str):
            yield name
        yield from _types([config.get("plugins"), config.get("delegates")])
