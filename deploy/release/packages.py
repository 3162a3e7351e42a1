"""The wheel, the source archive, the list of pinned requirements, and the plugin of kubectl."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from deploy.release.archives import digest, write_tar_gz
from deploy.release.lock import pinned
from deploy.release.tree import ROOT, Release, run

_HERE: Final = Path(__file__).parent


def build_wheel(release: Release, out: Path) -> Path:
    """Build the wheel and the source archive into ``out``; return the wheel. Equal trees give equal files."""
    run([sys.executable, "-m", "hatchling", "build", "-d", out], {"SOURCE_DATE_EPOCH": str(release.time)}, ROOT)
    return out / f"kubeweir-{release.version}-py3-none-any.whl"


def write_requirements(release: Release, out: Path) -> Path:
    """Write what the wheel needs, pinned by version and hash, as `pip install -r` takes it."""
    path = out / f"kubeweir-{release.version}-requirements.txt"
    path.write_text("".join(one.text for one in pinned(ROOT)))
    return path


def write_plugin(release: Release, wheel: Path, requirements: Path, out: Path) -> Path:
    """Write what krew installs: a program that makes an environment from the wheel, once, and runs `weir` from it."""
    path = out / f"kubectl-weir-{release.version}.tar.gz"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = (_HERE / "kubectl-weir").read_text()
        (root / "kubectl-weir").write_text(text.replace("@VERSION@", release.version))
        (root / "kubectl-weir").chmod(0o755)
        shutil.copy(wheel, root / wheel.name)
        shutil.copy(requirements, root / "requirements.txt")
        shutil.copy(ROOT / "LICENSE", root / "LICENSE")
        for file in root.iterdir():
            file.chmod(0o755 if file.name == "kubectl-weir" else 0o644)
            os.utime(file, (release.time, release.time))
        write_tar_gz(path, root, (file.name for file in root.iterdir()), release.time)
    return path


def write_krew_manifest(release: Release, plugin: Path, url: str, out: Path) -> Path:
    """Write the manifest by which `kubectl krew` installs the plugin from ``url``, a folder that has this release."""
    text = (_HERE / "krew.yaml").read_text()
    for name, value in {
        "@VERSION@": release.version,
        "@URL@": url,
        "@URI@": f"{url.rstrip('/')}/{plugin.name}",
        "@SHA256@": digest(plugin),
    }.items():
        text = text.replace(name, value)
    path = out / "weir.yaml"
    path.write_text(text)
    return path
