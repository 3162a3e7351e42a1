"""Debian's packages of the image, for any architecture: apt resolves, downloads and checks them; none of them runs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.release.archives import digest
from deploy.release.tree import ReleaseError

PACKAGES: Final = (
    "base-files", "base-passwd", "ca-certificates", "coreutils", "dash", "libc-bin", "linux-libc-dev", "python3",
    "python3-bpfcc",
)  # fmt: skip
"""What the image has of Debian, beside what these need. `sleep` of coreutils is what the detached pods run; a shell is
for people who look into a container."""
_ORIGIN: Final = re.compile(r"Debian(-Security)?:12\b")


@dataclass(frozen=True)
class Debian:
    """A package of Debian as it was downloaded."""

    name: str
    version: str
    arch: str
    sha256: str
    path: Path
    control: str
    """Its fields, as dpkg has them in its list of installed packages."""


def download(arch: str, cache: Path) -> list[Debian]:
    """Return the packages for ``arch``, downloaded to ``cache``. The versions are those that Debian 12 has today.

    apt checks Debian's signature with the keys of this machine, and asks the servers that this machine uses.
    """
    home = cache / f"apt-{arch}"
    for folder in ("lists/partial", "archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "status").write_text("")  # nothing is installed: everything that is needed is downloaded
    _apt(home, arch, "get", "update")
    install = ("install", "-y", "--no-install-recommends")
    planned = _apt(home, arch, "get", *install, "--simulate", *PACKAGES)
    found_there = re.findall(r"(?m)^Inst (\S+) \((\S+) (.*) \[", planned)
    if not found_there:
        raise ReleaseError(f"apt finds no packages of Debian for {arch}")
    # This machine may have other sources too, of which nothing gets into a release.
    foreign = [name for name, _, origins in found_there if not all(map(_ORIGIN.match, origins.split(", ")))]
    if foreign:
        raise ReleaseError(f"apt would take these packages from elsewhere than Debian 12: {', '.join(foreign)}")
    wanted = {(name, version) for name, version, _ in found_there}
    _apt(home, arch, "get", *install, "--download-only", *PACKAGES)
    found = []
    for path in sorted((home / "archives").glob("*.deb")):
        one = _read(path)
        if (one.name, one.version) in wanted:
            found.append(one)
        else:
            path.unlink()  # of an earlier version
    missing = wanted - {(one.name, one.version) for one in found}
    if missing:
        raise ReleaseError(f"apt has not downloaded {missing} for {arch}")
    _check(found, _apt(home, arch, "cache", "show", *(f"{one.name}={one.version}" for one in found)))
    return found


def _check(packages: Sequence[Debian], shown: str) -> None:
    """Raise ReleaseError if a package is not the one of the lists: of a file from before, apt checks only the size."""
    published = set()
    for text in shown.split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Version|SHA256): (\S+)", text))
        published.add(tuple(fields.get(name) for name in ("Package", "Version", "SHA256")))
    wrong = [one for one in packages if (one.name, one.version, one.sha256) not in published]
    for one in wrong:
        one.path.unlink()
    if wrong:
        names = ", ".join(one.path.name for one in wrong)
        raise ReleaseError(f"these packages were not what Debian's lists say, and are removed: {names}: run it again")


def _apt(home: Path, arch: str, program: str, *words: str) -> str:
    options: Sequence[str] = (
        f"APT::Architecture={arch}", f"APT::Architectures={arch}", "APT::Sandbox::User=root",
        f"Dir::State={home}", f"Dir::State::lists={home}/lists", f"Dir::State::status={home}/status",
        f"Dir::Cache={home}", f"Dir::Cache::archives={home}/archives",
        "Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache=", "Debug::NoLocking=1",
    )  # fmt: skip
    command = [f"apt-{program}", "-q", *(part for option in options for part in ("-o", option)), *words]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[:1] + list(words))} for {arch} failed:\n{done.stderr}")
    return done.stdout


def _read(path: Path) -> Debian:
    control = subprocess.run(["dpkg-deb", "-f", path], capture_output=True, text=True, check=True).stdout
    fields = dict(re.findall(r"(?m)^(Package|Version|Architecture): (\S+)", control))
    return Debian(fields["Package"], fields["Version"], fields["Architecture"], digest(path), path, control.strip("\n"))
