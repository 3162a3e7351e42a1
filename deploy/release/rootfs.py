"""The files of the image, in three folders that become its layers. Nothing of the image runs while it is made.

So an image for arm64 is made on amd64, and a build does not depend on what maintainers' scripts find. What those
scripts would do and the services need is done here: users, certificates, and what Python compiles.
"""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
import zipfile
from collections.abc import Iterable
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.release.debian import Debian
from deploy.release.lock import Pinned
from deploy.release.tree import ROOT, ReleaseError, run

OPT: Final = "opt/kubeweir"
SITE: Final = f"{OPT}/lib/python3.11/site-packages"
_UNUSED: Final = ("doc", "man", "locale", "info", "lintian", "bug", "menu", "debianutils")
_USER: Final = 65532
_TOOLS: Final = ("/usr/bin/python3.11", "apt-get", "dpkg-deb", "openssl")
_MERGED: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


@dataclass(frozen=True)
class Machine:
    """An architecture, by all names that it goes by."""

    arch: str
    """As Debian, Go and OCI have it."""
    triplet: str
    wheels: str
    """As the names of wheels have it."""
    elf: int
    """As the header of an ELF file has it."""

    def compiler(self) -> str:
        """Return the program that compiles for this machine here."""
        return "gcc" if platform.machine() == self.wheels else f"{self.triplet}-gcc"

    def missing_tools(self) -> list[str]:
        """Return the programs that an image for this machine needs, and that are not installed."""
        return [name for name in (*_TOOLS, self.compiler()) if not shutil.which(name)]


MACHINES: Final = {
    "amd64": Machine("amd64", "x86_64-linux-gnu", "x86_64", 62),
    "arm64": Machine("arm64", "aarch64-linux-gnu", "aarch64", 183),
}


def make_base(machine: Machine, packages: Iterable[Debian], root: Path) -> None:
    """Unpack Debian's packages, without documentation, and do what the services need of their scripts."""
    (root / "usr").mkdir(parents=True)
    for name in _MERGED:
        (root / "usr" / name).mkdir()
        (root / name).symlink_to(f"usr/{name}")
    for one in packages:
        unpack = 'dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink --no-same-owner -C "$1"'
        run(["bash", "-o", "pipefail", "-c", unpack, one.path, root])
    for name in _UNUSED:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    for name in ("lib32", "libx32"):
        (root / name).unlink()
        (root / "usr" / name).rmdir()
    _add_users(root)
    _add_certificates(root)
    shutil.copy(root / "usr/share/libc-bin/nsswitch.conf", root / "etc/nsswitch.conf")
    for name, target in (("var/run", "/run"), ("var/lock", "/run/lock")):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()  # Debian has links here, which a script of base-files makes
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    # By this list, programs that look for known weaknesses see what the image has of Debian.
    (root / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    status = [re.sub(r"(?m)^(Package: .*)$", r"\1\nStatus: install ok installed", one.control, count=1)
              for one in packages]  # fmt: skip
    (root / "var/lib/dpkg/status").write_text("\n\n".join(status) + "\n")
    for name in ("usr/lib/python3", "usr/lib/python3.11"):
        compile_folder(root, name)
    check_machine(root, machine)


def _add_users(root: Path) -> None:
    for name, line in (
        ("passwd", f"kubeweir:x:{_USER}:{_USER}::/nonexistent:/usr/sbin/nologin\n"),
        ("group", f"kubeweir:x:{_USER}:\n"),
    ):
        text = (root / f"usr/share/base-passwd/{name}.master").read_text()
        (root / "etc" / name).write_text(text.replace(":*:", ":x:") + line)


def _add_certificates(root: Path) -> None:
    """Make the file and the folder of authorities, as update-ca-certificates does."""
    folder = root / "etc/ssl/certs"
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for path in sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt")):
        texts.append(path.read_text().strip() + "\n")
        (folder / f"{path.stem}.pem").symlink_to(f"/usr/share/ca-certificates/mozilla/{path.name}")
    # openssl follows the links of this folder, which lead to /usr, so it gets one with files.
    copies = root / "tmp/certs"
    copies.mkdir(parents=True)
    for path in (root / "usr/share/ca-certificates/mozilla").glob("*.crt"):
        shutil.copy(path, copies / f"{path.stem}.pem")
    run(["openssl", "rehash", copies])
    for link in copies.iterdir():
        if link.is_symlink():
            (folder / link.name).symlink_to(os.readlink(link))  # noqa: PTH115 - as it is, not where it leads
    shutil.rmtree(copies)
    (folder / "ca-certificates.crt").write_text("".join(texts))


def make_environment(machine: Machine, pins: Iterable[Pinned], python: Path, wheels: Path, root: Path) -> None:
    """Install what kubeweir needs of PyPI for a machine. Packages without a file for it are built without compiling."""
    work = root.with_name(f"{root.name}-requirements")
    work.mkdir()
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    files: list[str | Path] = [*_target(machine), "--only-binary=:all:", "--no-deps"]
    site = root / SITE
    ready = []
    for one in pins:
        (work / one.name).write_text(one.text)
        if one.name in _PURE and machine.wheels != "x86_64":
            build: list[str | Path] = [
                "wheel",
                "-q",
                "--no-deps",
                "--no-binary",
                one.name,
                "--require-hashes",
                "-r",
                work / one.name,
            ]
            run([*pip, *build, "-w", work], _PURE[one.name])
        else:
            ready.append(one)
    (work / "requirements.txt").write_text("".join(one.text for one in ready))
    known: list[str | Path] = ["--find-links", wheels]
    run([*pip, "download", "-q", *files, *known, "--require-hashes", "-r", work / "requirements.txt", "-d", wheels])
    # What was downloaded is installed, with its hashes checked again.
    offline: list[str | Path] = ["install", "-q", *files, "--no-index", "--no-compile", "--target", site]
    run([*pip, *offline, "--find-links", wheels, "--require-hashes", "-r", work / "requirements.txt"])
    for path in work.glob("*.whl"):
        if not path.name.endswith("-none-any.whl"):
            raise ReleaseError(f"{path.name} was compiled for this machine: it cannot run on {machine.arch}")
        run([*pip, *offline, path])
    shutil.rmtree(work)
    for folder in (site / "bin", *site.rglob("tests"), *site.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)
    forget_where_it_was_built(site)
    (root / OPT / "bin").mkdir()
    for name in ("python", "python3"):
        (root / OPT / "bin" / name).symlink_to("/usr/bin/python3")
    (root / OPT / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11\n")
    compile_folder(root, SITE)
    check_machine(root, machine)


def forget_where_it_was_built(site: Path) -> None:
    """Remove what pip writes down of this machine: where a wheel was, and scripts that begin with its Python's path."""
    for path in site.glob("*.dist-info/direct_url.json"):
        path.unlink()
    for path in site.glob("*.dist-info/RECORD"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if (site / next(csv.reader([line]))[0]).exists()))


_PURE: Final = {"faust-streaming": {"NO_CYTHON": "1", "CC": "false", "PYTHONHASHSEED": "0"}}
"""Packages for which PyPI has no file for every machine, and by which settings their parts in C are left out. They do
without: we use Faust for batches, of which there are few. Its setup writes sets down, in the order of hashes."""


def _target(machine: Machine) -> list[str]:
    # glibc of Debian 12 is 2.36.
    tags = ["manylinux2014", "manylinux1", *(f"manylinux_2_{minor}" for minor in range(5, 37))]
    platforms = [word for tag in tags for word in ("--platform", f"{tag}_{machine.wheels}")]
    return [*platforms, "--python-version", "3.11", "--implementation", "cp"]


def make_own(machine: Machine, wheel: Path, root: Path) -> None:
    """Install kubeweir itself, its programs, and the CNI plugin, which is compiled for the machine."""
    site = root / SITE
    site.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (data,) = site.glob("*.data")
    shutil.copytree(data / "data", root / OPT, dirs_exist_ok=True)
    shutil.rmtree(data)
    (root / OPT / "bin").mkdir()
    parser = ConfigParser()
    parser.read(next(site.glob("*.dist-info")) / "entry_points.txt")
    for name, target in parser["console_scripts"].items():
        module, _, function = target.partition(":")
        text = (
            f"import sys\nfrom {module} import {function}\n\nif __name__ == '__main__':\n    sys.exit({function}())\n"
        )
        (root / OPT / "bin" / name).write_text(f"#!/{OPT}/bin/python\n{text}")
        (root / OPT / "bin" / name).chmod(0o755)
    plugin = root / OPT / "bin/weir-cni"
    flags = ["-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none"]
    run([machine.compiler(), *flags, "-o", plugin, ROOT / "probe/cni/weir_cni.c"])
    compile_folder(root, SITE)
    check_machine(root, machine)


def compile_folder(root: Path, name: str) -> None:
    """Compile Python's files, with hashes in place of times: the services run on a read-only root file system."""
    # One process, in the order of names, and strings hashed alike: so that equal sources give equal bytes.
    python = ["env", "-i", "PYTHONHASHSEED=0", "/usr/bin/python3.11", "-s", "-S"]
    options: list[str | Path] = ["-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/"]
    run([*python, "-m", "compileall", *options, root / name])


def check_machine(root: Path, machine: Machine) -> None:
    """Raise ReleaseError if a program or library is for another machine."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") != machine.elf:
                raise ReleaseError(f"/{path.relative_to(root)} is not for {machine.arch}")
