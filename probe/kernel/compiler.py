"""Compile ``bpf/policy.c`` with bcc. The only module that imports bcc.

It runs as a process of its own (``python -m probe.kernel.compiler``), so that the compiler's memory is returned before
the probe starts to work, and its output is shown only if it fails.

bcc creates all maps while it compiles, and pins those that have a pin: here, below a folder that is emptied afterwards.
The maps end with the process. They are read for their sizes, which are the compiler's (``sizeof``).

It needs no kernel headers: ``bpf/headers`` stands in for them, backed by Debian's linux-libc-dev.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

import bpf
from probe.kernel import bpf as kernel
from probe.kernel.back_edges import JUMPS_BACK, with_jumps_back
from probe.kernel.bytecode import Bytecode, MapSpec, ProgramCode

_PR_SET_PDEATHSIG: Final = 1
_LIBRARIES: Final = ("libbcc.so*", "libLLVM*.so*", "libclang*.so*")
_INNER: Final = "connections"
"""The map that the map of maps contains (``bpf/maps.h``). The kernel does not report it."""
_USER_API: Final = Path("/usr/include")


class CompilerError(RuntimeError):
    """bcc failed. The message is its output."""


class _Request(msgspec.Struct):
    source: str
    flags: list[str]
    programs: tuple[str, ...]
    pins: str
    parent: int


def compiled(source: str, sizes: Mapping[str, int], programs: tuple[str, ...], pins: Path) -> Bytecode:
    """Compile a source text. ``sizes`` are its compile-time settings, ``programs`` its entry points.

    ``pins`` is a folder in bpffs that does not exist; it is made, and removed again. Raises :class:`CompilerError`.
    """
    request = _Request(source, flags(str(pins), sizes), programs, str(pins), os.getpid())
    try:
        done = subprocess.run(
            [sys.executable, "-m", "probe.kernel.compiler"],
            input=msgspec.msgpack.encode(request),
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            # Ctrl-C signals the whole foreground group. It must stop the probe, not make compilation fail.
            start_new_session=True,
        )
    finally:
        remove_folder(pins)
    if done.returncode:
        raise CompilerError(done.stderr.decode(errors="replace"))
    return msgspec.msgpack.decode(done.stdout, type=Bytecode)


def remove_folder(pins: Path) -> None:
    """Remove a folder of pins, if it exists."""
    if pins.exists():
        for path in pins.iterdir():
            path.unlink()
        pins.rmdir()


def flags(pins: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the compiler's flags: include paths, where maps are pinned, and their sizes."""
    return [
        f"-I{bpf.ROOT}",
        f"-I{bpf.HEADERS}",
        "-isystem",
        str(_USER_API),
        "-isystem",
        str(_USER_API / _triplet()),
        "-Wno-macro-redefined",
        "-Wno-unknown-warning-option",
        f'-DPIN="{pins}"',
        *(f"-D{name}={size}" for name, size in sizes.items()),
    ]


def fingerprint(source: str, sizes: Mapping[str, int]) -> str:
    """Return a hash of everything that the result of :func:`compiled` depends on.

    That is the source, the flags with the sizes, the headers, the compiler, what is changed of its code, the
    machine and its kernel. The user API's headers are known by the version of the kernel that they come from, libraries
    by name, size and time of change.
    """
    version = _USER_API / "linux" / "version.h"
    headers = sorted(path for path in bpf.HEADERS.rglob("*") if path.is_file())
    parts = {
        "source": source,
        # Where the probe is installed makes no difference.
        "flags": sorted(flag for flag in flags("", sizes) if not flag.startswith("-I")),
        "headers": [(str(path.relative_to(bpf.HEADERS)), path.read_text()) for path in headers],
        "user_api": version.read_text() if version.exists() else "",
        "compiler": list(_libraries()),
        "jumps_back": JUMPS_BACK,
        "machine": (platform.machine(), platform.release()),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _libraries() -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of change of the files that bcc consists of."""
    # This finds the module without importing it, which would load the compiler.
    module = importlib.util.find_spec("bcc")
    files = {Path(module.origin).with_name("version.py")} if module is not None and module.origin else set()
    for folder in (Path("/usr/lib") / _triplet(), Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib")):
        files.update(path for pattern in _LIBRARIES for path in folder.glob(pattern))
    for path in sorted(path for path in files if path.is_file()):
        found = path.stat()
        yield path.name, found.st_size, found.st_mtime_ns


def _triplet() -> str:
    return sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"


def _main() -> None:
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    # Else the compiler of a killed probe would race with the next probe's for the same pins.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request.parent:
        return
    # The result alone goes to standard output: what else writes there belongs to the compiler's output.
    with os.fdopen(os.dup(1), "wb") as result:
        os.dup2(2, 1)
        # By default bcc looks for the running kernel's headers, which need not be installed.
        os.environ["BCC_KERNEL_SOURCE"] = str(bpf.HEADERS)
        result.write(msgspec.msgpack.encode(_compile(request)))


def _compile(request: _Request) -> Bytecode:
    from bcc import BPF  # noqa: PLC0415 - reads the environment when it is imported
    from bcc.libbcc import lib  # noqa: PLC0415 - as above

    pins = Path(request.pins)
    pins.mkdir()
    module = BPF(text=request.source, cflags=request.flags)
    pinned = {path.name for path in pins.iterdir()}
    maps, names = {}, {}
    for name in _map_names(lib, module.module):
        number = lib.bpf_table_fd(module.module, name.encode())
        size = kernel.map_info(number).size
        inner = _INNER if size[0] == kernel.ARRAY_OF_MAPS else ""
        maps[name] = MapSpec(*size, is_pinned=name in pinned, inner=inner)
        names[number] = name
    programs = {}
    for name in request.programs:
        start, size = (of(module.module, name.encode()) for of in (lib.bpf_function_start, lib.bpf_function_size))
        code = with_jumps_back(ctypes.string_at(start, size))
        programs[name] = ProgramCode.unlinked(code, names)
    return Bytecode(lib.bpf_module_license(module.module).decode(), maps, programs)


def _map_names(lib: Any, module: int) -> list[str]:
    """Return the names of all maps. bcc's Python part does not use these functions of its library."""
    lib.bpf_num_tables.argtypes, lib.bpf_num_tables.restype = [ctypes.c_void_p], ctypes.c_size_t
    lib.bpf_table_name.argtypes, lib.bpf_table_name.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_char_p
    return [lib.bpf_table_name(module, index).decode() for index in range(lib.bpf_num_tables(module))]


if __name__ == "__main__":
    _main()
