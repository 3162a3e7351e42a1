"""Debian packages for the nodes. Daemons are unpacked into the cache: installing one would start its service."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Final

from kube.plan import CACHE, ClusterError

_DAEMONS: Final = ("containerd", "runc", "containernetworking-plugins")
_TOOLS: Final = {"iptables": "iptables", "nft": "nftables", "conntrack": "conntrack", "openssl": "openssl"}
"""Programs that kube-proxy, the CNI plugins and the set-up call, and their packages. None starts a service."""
UNPACKED: Final = CACHE / "containerd-bookworm"


def prepare(say: Callable[[str], None]) -> None:
    """Install the tools and unpack the daemons that are missing."""
    missing = sorted(package for program, package in _TOOLS.items() if shutil.which(program) is None)
    if missing or not UNPACKED.is_dir():
        install(missing or ["libseccomp2"], say)
    if not UNPACKED.is_dir():
        say(f"unpacking {', '.join(_DAEMONS)} into {UNPACKED}")
        _unpack()


def install(packages: list[str], say: Callable[[str], None]) -> None:
    """Install Debian packages. Raises ClusterError."""
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"{', '.join(packages)} must be installed, and there is no apt-get: install them yourself", 3
        )
    say(f"installing {', '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / "cluster-apt.log"
    with log.open("w") as out:
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", *packages],
        ):
            if subprocess.run(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env, check=False
            ).returncode:
                raise ClusterError(f"{' '.join(command[:2])} failed, see {log}", 3)


def _unpack() -> None:
    part = UNPACKED.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    done = subprocess.run(["apt-get", "download", *_DAEMONS], cwd=part, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"apt-get download failed: {done.stderr.strip()}", 3)
    for package in part.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(part)], check=True)
        package.unlink()
    part.rename(UNPACKED)
