"""Compiles ``bpf/policy.c`` with bcc, loads it and pins its programs; the only module that imports bcc.

Run as a process of its own (``python -m probe.kernel.program``): the compiler is then gone from memory when the probe
starts to work, and what it prints stays off the user's screen unless it fails. Maps that are pinned already are used
again, contents and all. The programs are pinned as ``new_NAME``, so that a failure half way changes nothing.

bcc itself would take a pinned map by its id, which the kernel allows to CAP_SYS_ADMIN only (kernel/bpf/syscall.c,
bpf_map_get_fd_by_id). So it pins all maps in a folder of their own; those that were missing move to their place, and in
the programs' instructions the others give way to what is pinned there.

No kernel headers: ``bpf/headers`` stands in for them, with Debian's linux-libc-dev behind it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

import bpf
from probe.kernel import bpf as kernel
from probe.kernel.source import joined

PROGRAMS: Final = ("pod_egress", "pod_ingress", "exit_ethernet", "exit_tunnel", "close_windows")
"""The functions of ``bpf/policy.c`` that are entry points."""


_INSN: Final = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])
"""struct bpf_insn; of ``registers`` the upper half is the source (little-endian machines)."""
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1


_PR_SET_PDEATHSIG: Final = 1


class LoadError(RuntimeError):
    """The programs could not be compiled or loaded; the message says what to do, ``log`` is the compiler's."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def build(folder: Path, sizes: Mapping[str, int]) -> None:
    """Compile, load and pin below ``folder`` (in bpffs). ``sizes`` are the compile-time settings of ``policy.c``.

    Raises :class:`LoadError`.
    """
    request = json.dumps({"folder": str(folder), "sizes": dict(sizes), "parent": os.getpid()})
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
    # A killed probe's compiler would meet the next probe's at the same pins.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != asked["parent"]:
        return
    # bcc looks for headers of the running kernel, of which there need not be any.
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf.HEADERS)
    from bcc import BPF  # noqa: PLC0415 - reads the environment when it is imported

    folder = Path(asked["folder"])
    fresh = folder / "fresh"
    _clear(fresh)
    fresh.mkdir()
    module = BPF(text=joined(bpf.POLICY_SOURCE), cflags=flags(str(fresh), asked["sizes"]))
    adopted = _adopt(module, fresh, folder)
    for name in PROGRAMS:
        path = folder / f"new_{name}"
        path.unlink(missing_ok=True)
        kernel.pin(_load(module, name, adopted), path)
    _clear(fresh)


def _clear(folder: Path) -> None:
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _adopt(module: Any, fresh: Path, folder: Path) -> dict[int, int]:
    """Pin the maps that were missing. For the others: the descriptor that bcc has made, and that of what is there."""
    from bcc.libbcc import lib  # noqa: PLC0415 - as in _main

    adopted = {}
    for path in list(fresh.iterdir()):
        place = folder / path.name
        if place.exists():
            adopted[lib.bpf_table_fd(module.module, path.name.encode())] = kernel.get(place)
        else:
            path.rename(place)
    return adopted


def _load(module: Any, name: str, adopted: Mapping[int, int]) -> int:
    """Load a program with other maps than those it was compiled with; its descriptor."""
    from bcc import BPF  # noqa: PLC0415 - as in _main
    from bcc.libbcc import lib  # noqa: PLC0415 - as in _main

    start = lib.bpf_function_start(module.module, name.encode())
    code = np.frombuffer(ctypes.string_at(start, lib.bpf_function_size(module.module, name.encode())), _INSN).copy()
    is_map = (code["code"] == _LD_IMM64) & (code["registers"] >> 4 == _PSEUDO_MAP_FD)
    code["imm"][is_map] = [adopted.get(int(fd), int(fd)) for fd in code["imm"][is_map]]
    fd: int = lib.bcc_func_load(
        module.module, BPF.SCHED_CLS, name.encode(), code.ctypes.data, code.nbytes,
        lib.bpf_module_license(module.module), lib.bpf_module_kern_version(module.module), 0, None, 0, None, -1,
    )  # fmt: skip
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return fd


if __name__ == "__main__":
    _main(sys.argv[1])
