"""Compiles ``bpf/policy.c`` with bcc, loads it and pins its programs; the only module that imports bcc.

Run as a process of its own (``python -m probe.kernel.program``): the compiler is then gone from memory when the probe
starts to work, and what it prints stays off the user's screen unless it fails. Maps that are pinned already are used
again, contents and all. The programs are pinned as ``new_NAME``, so that a failure half way changes nothing.

No kernel headers: ``bpf/headers`` stands in for them, with Debian's linux-libc-dev behind it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import bpf
from probe.kernel import bpf as kernel

PROGRAMS: Final = ("pod_egress", "pod_ingress", "exit_ethernet", "exit_tunnel", "close_windows")
"""The functions of ``bpf/policy.c`` that are entry points."""


class LoadError(RuntimeError):
    """The programs could not be compiled or loaded; the message says what to do, ``log`` is the compiler's."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def build(folder: Path, sizes: Mapping[str, int]) -> None:
    """Compile, load and pin below ``folder`` (in bpffs). ``sizes`` are the compile-time settings of ``policy.c``.

    Raises :class:`LoadError`.
    """
    request = json.dumps({"folder": str(folder), "sizes": dict(sizes)})
    done = subprocess.run(
        [sys.executable, "-m", "probe.kernel.program", request],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # Ctrl-C reaches the whole foreground group: it is to stop the probe, not to look like a program that is wrong.
        start_new_session=True,
    )
    if done.returncode:
        log = done.stderr
        raise LoadError(_advice(log), log)


def _advice(log: str) -> str:
    if "No module named 'bcc'" in log:
        return "python3-bpfcc is missing, or the virtual environment does not see it: apt-get install python3-bpfcc"
    if "/usr/include/linux" in log and "not found" in log:
        return "the kernel's user API headers are missing: apt-get install linux-libc-dev"
    if "Operation not permitted" in log and "processed" not in log:
        return "the kernel refuses bpf(): run as root, or with the capabilities BPF, NET_ADMIN and PERFMON"
    last = [line for line in log.splitlines() if line.strip()]
    return f"the program was not loaded: {last[-1] if last else 'no message'}"


def flags(folder: str, sizes: Mapping[str, int]) -> list[str]:
    """What the compiler is told: where headers are, where maps are pinned, how large they are."""
    triplet = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    return [
        f"-I{bpf.ROOT}",
        f"-I{bpf.HEADERS}",
        "-isystem",
        "/usr/include",
        "-isystem",
        f"/usr/include/{triplet}",
        "-Wno-macro-redefined",
        "-Wno-unknown-warning-option",
        f'-DPIN="{folder}"',
        *(f"-D{name}={size}" for name, size in sizes.items()),
    ]


def _main(request: str) -> None:
    asked = json.loads(request)
    # bcc looks for headers of the running kernel, of which there need not be any.
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf.HEADERS)
    from bcc import BPF  # noqa: PLC0415 - reads the environment when it is imported

    module = BPF(src_file=str(bpf.POLICY_SOURCE), cflags=flags(asked["folder"], asked["sizes"]))
    for name in PROGRAMS:
        program = module.load_func(name, BPF.SCHED_CLS)
        path = Path(asked["folder"]) / f"new_{name}"
        path.unlink(missing_ok=True)
        kernel.pin(program.fd, path)


if __name__ == "__main__":
    _main(sys.argv[1])
