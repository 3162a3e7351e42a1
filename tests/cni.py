"""The CNI plugin's program, compiled, and run as a container runtime does it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "probe/cni/weir_cni.c"


@functools.cache
def program() -> Path:
    """Return the program that setup has compiled, if it is of this source; otherwise compile it, once."""
    made = Path(sysconfig.get_path("scripts")) / "weir-cni"
    if made.exists() and made.stat().st_mtime > SOURCE.stat().st_mtime:
        return made
    folder = tempfile.TemporaryDirectory(prefix="weir-cni-")
    program._folder = folder  # type: ignore[attr-defined]  # it is removed with the process
    target = Path(folder.name) / "weir-cni"
    subprocess.run(["cc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o", target, SOURCE], check=True)
    return target


@dataclass
class Call:
    """One call of the plugin, for a pod's sandbox."""

    socket: Path
    netns: str = ""
    pod: str = "shop/web"
    uid: str = "uid-web"
    container: str = "c1"
    addresses: tuple[str, ...] = ("10.244.0.9",)
    wait: int = 1
    on_failure: str = "closed"

    @property
    def previous(self) -> dict[str, Any]:
        """The result of the plugins before."""
        return {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "veth1", "mac": "aa:bb:cc:dd:ee:ff"}, {"name": "eth0", "sandbox": self.netns}],
            "ips": [{"interface": 1, "address": f"{a}/{128 if ':' in a else 32}"} for a in self.addresses],
            "dns": {"search": ['q"{}[]\\,']},
        }

    @property
    def config(self) -> dict[str, Any]:
        """What is on standard input."""
        return {
            "args": {"socket": "/nowhere", "prevResult": {}}, "cniVersion": "1.0.0", "name": "net",
            "onFailure": self.on_failure, "prevResult": self.previous, "socket": str(self.socket), "type": "weir-cni",
            "wait": self.wait,
        }  # fmt: skip

    def start(self, command: str, stdin: bytes | None = None) -> subprocess.Popen[bytes]:
        """Start the program, and give it its standard input."""
        namespace, _, name = self.pod.partition("/")
        env = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": self.container, "CNI_NETNS": self.netns, "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin", "OTHER": "x",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={self.uid}",
        }  # fmt: skip
        with tempfile.TemporaryFile() as given:
            given.write(json.dumps(self.config).encode() if stdin is None else stdin)
            given.seek(0)
            return subprocess.Popen([program()], env=env, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, command: str, stdin: bytes | None = None) -> tuple[int, Any]:
        """Run the program; return its exit code, and what it prints as JSON."""
        return ended(self.start(command, stdin))


def ended(process: subprocess.Popen[bytes]) -> tuple[int, Any]:
    """Wait for a call; return its exit code, and what it prints as JSON."""
    out, err = process.communicate(timeout=240)
    assert err == b"", err
    return process.returncode, json.loads(out) if out else None


def short_folder() -> Path:
    """Make a folder whose path is short enough for the name of a socket."""
    return Path(tempfile.mkdtemp(prefix="weir-", dir=os.environ.get("TMPDIR", "/tmp")))  # noqa: S108
