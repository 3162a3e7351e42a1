"""Write container images without a builder: one static program in one layer, as an archive that containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Final

from kube.plan import CACHE

PAUSE: Final = "localhost/kubeweir/pause:1"
AGNHOST: Final = "registry.k8s.io/e2e-test-images/agnhost:2.56"
"""Kubernetes' end-to-end tests use the image under this name."""


def archives(binaries: Path) -> list[Path]:
    """Return the archives of the images for every node; write those that are missing or older than their program."""
    paths = []
    for name, program, entrypoint in ((PAUSE, "pause", ["/pause"]), (AGNHOST, "agnhost", ["/agnhost"])):
        path = CACHE / "images" / f"{program}.tar"
        if not path.exists() or path.stat().st_mtime < (binaries / program).stat().st_mtime:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, name, binaries / program, entrypoint)
        paths.append(path)
    return paths


def _write(path: Path, name: str, program: Path, entrypoint: list[str]) -> None:
    """Write a docker-archive (manifest.json, config, layers), the format of ``docker save``."""
    layer = _tar({program.name: (program.read_bytes(), 0o755), "etc/passwd": (b"root:x:0:0::/:/pause\n", 0o644)})
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": entrypoint, "Cmd": ["pause"] if program.name == "agnhost" else [], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "kubeweir"}],
    }).encode()  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    part = path.with_suffix(".part")
    part.write_bytes(
        _tar(
            {
                "manifest.json": (json.dumps(manifest).encode(), 0o644),
                "config.json": (config, 0o644),
                "layer.tar": (layer, 0o644),
            }
        )
    )
    part.rename(path)


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for directory in ("tmp",) if "etc/passwd" in files else ():
            folder = tarfile.TarInfo(directory)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(folder)
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
