"""Compile ``bpf/policy.c`` with bcc, load it and pin the programs. The only module that imports bcc.

It runs as a process of its own (``python -m probe.kernel.program``), so that the compiler's memory is returned before
the probe starts to work, and its output is shown only if it fails.

1. bcc compiles and creates all maps, pinned in the folder ``fresh``. It cannot adopt pinned maps itself: it would open
   them by id, which the kernel allows with CAP_SYS_ADMIN only (bpf_map_get_fd_by_id in kernel/bpf/syscall.c).
2. A map that is not pinned in its place yet is renamed to that place; if another generation shares one of the same
   size, that one is pinned there instead. Where a map was there or is shared, the instructions that refer to the fresh
   map are patched to refer to the pinned one, whose contents stay.
3. The programs are loaded and pinned as ``new_NAME``. The caller renames them, so that a failure changes nothing.

It needs no kernel headers: ``bpf/headers`` stands in for them, backed by Debian's linux-libc-dev.
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

PROGRAMS: Final = (
    "pod_egress",
    "pod_ingress",
    "exit_ethernet",
    "exit_tunnel",
    "entry_tunnel",
    "entry_device",
    "expire_places",
    "close_windows",
)
"""The entry points in ``bpf/policy.c``."""


_INSN: Final = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])
"""``struct bpf_insn``. The upper half of ``registers`` is the source register (on little-endian machines)."""
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1


_PR_SET_PDEATHSIG: Final = 1


class LoadError(RuntimeError):
    """The programs could not be compiled or loaded. The message says what to do; ``log`` is the compiler's output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def build(folder: Path, sizes: Mapping[str, int], shared: Mapping[str, Path]) -> None:
    """Compile, load and pin below ``folder``, in bpffs. ``sizes`` are the compile-time settings of ``policy.c``.

    ``shared`` are pins of another generation, by map name. Raises :class:`LoadError`.
    """
    request = json.dumps({
        "folder": str(folder),
        "sizes": dict(sizes),
        "shared": {name: str(path) for name, path in shared.items()},
        "parent": os.getpid(),
    })  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "probe.kernel.program", request],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # Ctrl-C signals the whole foreground group. It must stop the probe, not make compilation fail.
        start_new_session=True,
    )
    if done.returncode:
        log = done.stderr
        raise LoadError(_advice(log), log)


def _advice(log: str) -> str:
    if "No module named 'bcc'" in log:
        return (
            "the Python module bcc was not found. Run `apt-get install python3-bpfcc`, and make the virtual "
            "environment with --system-site-packages"
        )
    if "/usr/include/linux" in log and "not found" in log:
        return "the kernel's user API headers are not in /usr/include/linux. Run `apt-get install linux-libc-dev`"
    if "Operation not permitted" in log and "processed" not in log:
        return "the kernel refused bpf(). Run as root, or with the capabilities BPF, NET_ADMIN and PERFMON"
    last = [line for line in log.splitlines() if line.strip()]
    return f"the programs could not be compiled or loaded: {last[-1] if last else 'the compiler gave no message'}"


def flags(folder: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the compiler's flags: include paths, where maps are pinned, and their sizes."""
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
    parsed = json.loads(request)
    # Else the compiler of a killed probe would race with the next probe's for the same pins.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parsed["parent"]:
        return
    # By default bcc looks for the running kernel's headers, which need not be installed.
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf.HEADERS)
    from bcc import BPF  # noqa: PLC0415 - reads the environment when it is imported

    folder = Path(parsed["folder"])
    fresh = folder / "fresh"
    _clear(fresh)
    fresh.mkdir()
    module = BPF(text=joined(bpf.POLICY_SOURCE), cflags=flags(str(fresh), parsed["sizes"]))
    adopted = _adopt(module, fresh, folder, parsed["shared"])
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


def _adopt(module: Any, fresh: Path, folder: Path, shared: Mapping[str, str]) -> dict[int, int]:
    """Put every map in its place. Return bcc's descriptor to the pinned map's where that is not the fresh one."""
    from bcc.libbcc import lib  # noqa: PLC0415 - as in _main

    adopted = {}
    for path in list(fresh.iterdir()):
        place, number = folder / path.name, lib.bpf_table_fd(module.module, path.name.encode())
        if not place.exists() and path.name in shared:
            with kernel.closing(kernel.get(Path(shared[path.name]))) as other:
                if _size_of(other) == _size_of(number):
                    kernel.pin(other, place)
        if place.exists():
            adopted[number] = kernel.get(place)
        else:
            path.rename(place)
    return adopted


def _size_of(fd: int) -> tuple[int, ...]:
    info = kernel.map_info(fd)
    return info.kind, info.key_size, info.value_size, info.max_entries, info.flags


def _load(module: Any, name: str, adopted: Mapping[int, int]) -> int:
    """Load a program with the maps in ``adopted`` instead of bcc's. Return its descriptor."""
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
