"""The image for each machine, in one archive with an index over both, and what it was made of."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.release import oci, rootfs
from deploy.release.archives import digest
from deploy.release.debian import Debian, download
from deploy.release.lock import Pinned, pinned
from deploy.release.tree import ROOT, Release

EXTRAS: Final = ("cel", "hubble", "otlp-grpc")
"""The extras whose packages the image has, as deploy/image/requirements.py lists them."""


@dataclass(frozen=True)
class Made:
    """The image for one machine."""

    arch: str
    digest: str
    """That of its manifest, by which a registry gives it out."""
    debian: Sequence[Debian]
    python: Sequence[tuple[Pinned, str]]
    """Each package of PyPI, with the hash of its file; an empty text if it was built from its sources."""


def build(
    release: Release, wheel: Path, arches: Sequence[str], cache: Path, out: Path, say: Callable[[str], None]
) -> tuple[Path, str, list[Made]]:
    """Write the archive with the images of these architectures; return it, the digest of its index, and the images."""
    cache.mkdir(parents=True, exist_ok=True)
    settings = oci.settings_of((ROOT / "deploy/image/Dockerfile").read_text(), release.version)
    pins = pinned(ROOT, EXTRAS)
    with tempfile.TemporaryDirectory(dir=cache, prefix="image.") as folder:
        layout = Path(folder) / "layout"
        blobs = layout / "blobs/sha256"
        blobs.mkdir(parents=True)
        made, entries = [], []
        for arch in arches:
            machine = rootfs.MACHINES[arch]
            say(f"{arch}: downloading packages of Debian")
            debian = download(arch, cache)
            roots = [Path(folder) / f"{arch}-{name}" for name in ("base", "environment", "own")]
            say(f"{arch}: unpacking {len(debian)} packages of Debian")
            rootfs.make_base(machine, debian, roots[0])
            say(f"{arch}: installing {len(pins)} packages of PyPI")
            wheels = cache / "wheels"
            wheels.mkdir(exist_ok=True)
            rootfs.make_environment(machine, pins, Path(sys.executable), wheels, roots[1])
            rootfs.make_own(machine, wheel, roots[2])
            say(f"{arch}: writing layers")
            layers = []
            for root in roots:
                layers.append(oci.write_layer(blobs, root, release))
                shutil.rmtree(root)
            entries.append(oci.write_image(blobs, arch, layers, settings, release))
            known = {digest(path) for path in wheels.iterdir()}
            python = [(one, next(iter(_for_machine(one, wheels, machine) & known), "")) for one in pins]
            made.append(Made(arch, str(entries[-1]["digest"]), debian, python))
        path = out / f"kubeweir-{release.version}-image.tar"
        index = oci.write_layout(layout, entries, release, path)
    return path, index, made


def _for_machine(one: Pinned, wheels: Path, machine: rootfs.Machine) -> set[str]:
    """Return the hashes of the files of a package, in the folder of wheels, that are for this machine or for any."""
    files = [path for path in wheels.glob("*.whl") if path.name.endswith(("-none-any.whl", f"{machine.wheels}.whl"))]
    return {digest(path) for path in files} & one.hashes
