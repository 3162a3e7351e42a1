"""The image of a release: its layers and index are the same each time, and hold nothing of another machine.

Debian's packages and PyPI's are not downloaded here: `make release` does that.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.release import oci, packages, rootfs
from deploy.release.debian import Debian, download
from deploy.release.lock import pinned
from deploy.release.tree import ROOT, Release, ReleaseError, run, version_of

pytestmark = pytest.mark.timeout(600)
RELEASE = Release(version_of(ROOT), "c" * 40, 1_796_000_000, "")
NATIVE = rootfs.MACHINES["amd64" if os.uname().machine == "x86_64" else "arm64"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.build_wheel(RELEASE, tmp_path_factory.mktemp("wheel"))


def layout(wheel: Path, folder: Path, machine: rootfs.Machine) -> tuple[Path, str]:
    """Make an image of kubeweir's own layer and a small one."""
    blobs = folder / "layout/blobs/sha256"
    blobs.mkdir(parents=True)
    small = folder / "small"
    (small / "etc").mkdir(parents=True)
    (small / "etc/b").write_text("b")
    (small / "etc/a").write_text("a")
    (small / "etc/a").chmod(0o4755)
    (small / "tmp").mkdir()
    (small / "tmp").chmod(0o1777)
    (small / "bin").symlink_to("usr/bin")
    rootfs.make_own(machine, wheel, folder / "own")
    layers = [oci.write_layer(blobs, folder / name, RELEASE) for name in ("small", "own")]
    settings = oci.settings_of((ROOT / "deploy/image/Dockerfile").read_text(), RELEASE.version)
    entry = oci.write_image(blobs, machine.arch, layers, settings, RELEASE)
    digest = oci.write_layout(folder / "layout", [entry], RELEASE, folder / "image.tar")
    return folder / "image.tar", digest


def test_two_images_are_equal_byte_for_byte(wheel: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        made.append(layout(wheel, tmp_path / name, NATIVE))
        time.sleep(1.1)  # files of the second have other times, in whole seconds as a tar has them
    assert made[0][1] == made[1][1]
    assert made[0][0].read_bytes() == made[1][0].read_bytes()


def test_the_image_is_a_layout_of_oci_with_digests_that_are_right(wheel: Path, tmp_path: Path) -> None:
    path, digest = layout(wheel, tmp_path / "made", NATIVE)
    folder = tmp_path / "unpacked"
    with tarfile.open(path) as archive:
        archive.extractall(folder)  # noqa: S202 - it is of our making
    for blob in (folder / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name

    def read(entry: dict[str, Any]) -> dict[str, Any]:
        data = (folder / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
        assert len(data) == entry["size"]
        found: dict[str, Any] = json.loads(data)
        return found

    (top,) = json.loads((folder / "index.json").read_text())["manifests"]
    assert (top["digest"], top["annotations"]["org.opencontainers.image.ref.name"]) == (digest, RELEASE.version)
    (entry,) = read(top)["manifests"]
    assert entry["platform"] == {"architecture": NATIVE.arch, "os": "linux"}
    manifest = read(entry)
    config = read(manifest["config"])
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Labels"]["org.opencontainers.image.revision"] == RELEASE.commit
    names: dict[str, tarfile.TarInfo] = {}
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        blob = folder / "blobs/sha256" / layer["digest"].removeprefix("sha256:")
        assert f"sha256:{hashlib.sha256(gzip.decompress(blob.read_bytes())).hexdigest()}" == diff_id
        with tarfile.open(blob) as archive:
            names |= {one.name: one for one in archive}
    assert {(one.uid, one.gid, one.mtime <= RELEASE.time) for one in names.values()} == {(0, 0, True)}
    assert (names["etc/a"].mode, names["tmp"].mode, names["bin"].linkname) == (0o755, 0o1777, "usr/bin")
    for program in ("weir", "kubectl-weir", "weir-probe", "weir-streams", "weir-cni"):
        assert names[f"{rootfs.OPT}/bin/{program}"].mode == 0o755
    assert f"{rootfs.SITE}/streams/__pycache__/main.cpython-311.pyc" in names
    assert f"{rootfs.OPT}/share/man/man1/weir.1" in names


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="needs Debian's gcc-aarch64-linux-gnu")
def test_the_plugin_is_compiled_for_the_machine_of_the_image(wheel: Path, tmp_path: Path) -> None:
    rootfs.make_own(rootfs.MACHINES["arm64"], wheel, tmp_path / "own")
    (tmp_path / "own/opt/kubeweir/bin/weir-cni").replace(tmp_path / "own/weir-cni")
    with pytest.raises(ReleaseError, match="/weir-cni is not for amd64"):
        rootfs.check_machine(tmp_path / "own", rootfs.MACHINES["amd64"])


def test_a_missing_compiler_is_named(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReleaseError, match="linux-gnu-gcc is needed, and is not installed"):
        rootfs.make_own(NATIVE, wheel, tmp_path / "own")


@pytest.mark.parametrize(
    ("origins", "is_taken"),
    [
        ("Debian:12.15/oldstable", True),
        ("Debian:12.15/oldstable, Debian-Security:12/oldstable-security", True),
        ("Debian:13.1/stable", False),
        ("Debian:12.15/oldstable, somebody:12/main", False),
    ],
)
def test_only_packages_of_debian_12_are_taken(
    origins: str, is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may have other sources of packages."""

    def answer(_home: Path, _arch: str, _program: str, *words: str) -> str:
        return f"Inst python3 (3.11.2-1 {origins} [arm64])\n" if "--simulate" in words else ""

    monkeypatch.setattr("deploy.release.debian._apt", answer)
    with pytest.raises(ReleaseError, match="has not downloaded" if is_taken else "elsewhere than Debian 12: python3"):
        download("arm64", tmp_path)


def test_a_package_in_the_cache_that_has_changed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt takes a file that has the right name and size."""
    tree, archives = tmp_path / "tree", tmp_path / "apt-arm64/archives"
    (tree / "DEBIAN").mkdir(parents=True)
    archives.mkdir(parents=True)
    fields = {"Package": "made", "Version": "1:2", "Architecture": "arm64", "Maintainer": "t", "Description": "t"}
    (tree / "DEBIAN/control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    deb = archives / "made_1%3a2_arm64.deb"
    run(["dpkg-deb", "--build", "--root-owner-group", tree, deb])
    published = hashlib.sha256(deb.read_bytes()).hexdigest()

    def answer(_home: Path, _arch: str, program: str, *words: str) -> str:
        if program == "cache":
            assert words == ("show", "made=1:2")
            other = "Package: made\nVersion: 1:1\nSHA256: 0\n"
            return f"{other}\nPackage: made\nVersion: 1:2\nSHA256: {published}\nDescription: t\n\n"
        return "Inst made (1:2 Debian:12.15/oldstable [arm64])\n" if "--simulate" in words else ""

    monkeypatch.setattr("deploy.release.debian._apt", answer)
    assert [one.sha256 for one in download("arm64", tmp_path)] == [published]
    deb.write_bytes(deb.read_bytes() + b" ")
    with pytest.raises(ReleaseError, match="are removed: made_1%3a2_arm64"):
        download("arm64", tmp_path)
    assert not deb.exists()


def test_what_a_library_needs_for_an_extra_is_pinned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["one", "two"]\n')
    pins = (f"{name}==1 \\\n    --hash=sha256:{'0' * 64}\n" for name in ("four", "one", "three", "two"))
    (tmp_path / "requirements.lock").write_text("".join(pins))
    needed = {"one": ['three; extra == "more"'], "two": ["one[more]", 'four; sys_platform == "win32"']}
    monkeypatch.setattr("importlib.metadata.requires", needed.get)
    assert [one.name for one in pinned(tmp_path)] == ["one", "three", "two"]


def test_libraries_are_the_same_wherever_they_were_installed(tmp_path: Path) -> None:
    """pip writes the digests of its scripts down, which begin with the path of its Python, and where a wheel was."""
    for name in ("one", "two"):
        folder = tmp_path / name / "made-1.dist-info"
        folder.mkdir(parents=True)
        (folder.parent / "made,b.py").touch()
        (folder / "direct_url.json").write_text(f'{{"url": "file://{tmp_path / name}"}}')
        here = "made-1.dist-info/"
        ours = f"../../bin/made,sha256={name},9\n{here}direct_url.json,sha256={name},9\n"
        (folder / "RECORD").write_text(f'"made,b.py",sha256=x,0\n{ours}{here}RECORD,,\n')
        rootfs.forget_where_it_was_built(folder.parent)
        assert [path.name for path in folder.iterdir()] == ["RECORD"]
        assert (folder / "RECORD").read_text() == '"made,b.py",sha256=x,0\nmade-1.dist-info/RECORD,,\n'


def test_a_package_that_cannot_be_unpacked_ends_the_build(tmp_path: Path) -> None:
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"!<arch>\n")
    one = Debian("broken", "1", "amd64", "", broken, "Package: broken\nVersion: 1")
    with pytest.raises(ReleaseError, match="failed"):
        rootfs.make_base(NATIVE, [one], tmp_path / "root")
