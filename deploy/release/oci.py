"""Images as files: layers, configurations, manifests and the index over all machines, in the layout of OCI."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from deploy.release.archives import digest, write_tar, write_tar_gz
from deploy.release.tree import Release

_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Layer:
    """A layer in the folder of blobs: its digest and size, and the digest of what is compressed in it."""

    sha256: str
    size: int
    diff_id: str


def write_layer(blobs: Path, root: Path, release: Release) -> Layer:
    """Write everything below ``root`` as a layer."""
    part = blobs / "layer.part"
    names = (str(path.relative_to(root)) for path in root.rglob("*"))
    diff_id = write_tar_gz(part, root, names, release.time)
    sha256, size = digest(part), part.stat().st_size
    part.rename(blobs / sha256)
    return Layer(sha256, size, diff_id)


def settings_of(dockerfile: str, version: str) -> dict[str, Any]:
    """Return what the last stage of a Dockerfile says of the user, the environment, the command and the labels."""
    last = re.split(r"(?m)^FROM ", dockerfile)[-1].replace("\\\n", " ").replace("${VERSION}", version)
    lines = {word: re.findall(rf"(?m)^{word} (.*)$", last) for word in ("LABEL", "ENV", "USER", "CMD")}
    pairs = {word: [part.split("=", 1) for line in lines[word] for part in shlex.split(line)] for word in lines}
    return {
        "User": lines["USER"][-1],
        "Env": ["=".join(pair) for pair in pairs["ENV"]],
        "Cmd": json.loads(lines["CMD"][-1]),
        "Labels": dict(pairs["LABEL"]),
    }


def write_image(
    blobs: Path, arch: str, layers: Sequence[Layer], settings: Mapping[str, Any], release: Release
) -> dict[str, Any]:
    """Write configuration and manifest of the image for a machine; return the entry that an index has for it."""
    made = datetime.fromtimestamp(release.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {**settings["Labels"], "org.opencontainers.image.revision": release.commit,
              "org.opencontainers.image.created": made}  # fmt: skip
    config = {
        "created": made, "architecture": arch, "os": "linux", "config": {**settings, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one.diff_id}" for one in layers]},
        "history": [{"created": made, "created_by": "make release"} for _ in layers],
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": _MANIFEST, "config": _blob(blobs, config, _CONFIG),
        "layers": [{"mediaType": _LAYER, "digest": f"sha256:{one.sha256}", "size": one.size} for one in layers],
    }  # fmt: skip
    return {**_blob(blobs, manifest, _MANIFEST), "platform": {"architecture": arch, "os": "linux"}}


def write_layout(folder: Path, images: Sequence[Mapping[str, Any]], release: Release, out: Path) -> str:
    """Write the index over all images, and the layout as one archive; return the digest of the index.

    ``folder`` has the blobs already, and they are all that it has.
    """
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": list(images)}
    entry = _blob(folder / "blobs/sha256", index, _INDEX)
    names = {"org.opencontainers.image.ref.name": release.version,
             "io.containerd.image.name": f"localhost/kubeweir:{release.version}"}  # fmt: skip
    top = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [{**entry, "annotations": names}]}
    (folder / "index.json").write_bytes(_json(top))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with out.open("wb") as file:
        # A folder's time is that of the build.
        write_tar(file, folder, (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()), 0)
    return str(entry["digest"])


def _blob(blobs: Path, value: Mapping[str, Any], kind: str) -> dict[str, Any]:
    data = _json(value)
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
