"""Load the programs of ``bpf/policy.c`` and pin them, compiled now or by an earlier start.

1. The compiled programs are taken from the cache, or compiled and stored there.
2. Maps that are not pinned yet are created and pinned; if another generation shares one of the same size, that one is
   pinned instead. A map that is pinned is adopted, and its contents stay.
3. The programs are loaded with these maps and pinned as ``new_NAME``. The caller renames them, so that a failure
   changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

import bpf
from probe.kernel import bpf as kernel
from probe.kernel import compiler
from probe.kernel.bytecode import Bytecode, MapSpec, ProgramCode
from probe.kernel.program_cache import ProgramCache
from probe.kernel.source import joined

log = structlog.get_logger("kubeweir.probe")

PROGRAMS: Final = (
    "pod_egress",
    "pod_ingress",
    "exit_ethernet",
    "exit_tunnel",
    "entry_tunnel",
    "entry_device",
    "expire_places",
    "add_connection",
    "close_windows",
)
"""The entry points in ``bpf/policy.c``."""

_VERIFIER_LOG_BYTES: Final = (1 << 24) - 1
"""The most that kernels before 5.10 take; newer ones keep the end of a longer log (from 6.4 on)."""
_SHOWN_BYTES: Final = 64 << 10


class LoadError(RuntimeError):
    """The programs could not be compiled or loaded. The message says what to do; ``log`` is the compiler's output, or
    the verifier's."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def build(
    folder: Path, sizes: Mapping[str, int], shared: Mapping[str, Path], cache: ProgramCache | None = None
) -> None:
    """Compile, load and pin below ``folder``, in bpffs. ``sizes`` are the compile-time settings of ``policy.c``.

    ``shared`` are pins of another generation, by map name. Programs that are in ``cache`` are not compiled. Raises
    :class:`LoadError`.
    """
    source = joined(bpf.POLICY_SOURCE)
    fresh = folder / "fresh"
    # A compiler that was killed has left it.
    compiler.remove_folder(fresh)
    fingerprint = compiler.fingerprint(source, sizes)
    stored = cache.load(fingerprint) if cache else None
    if cache and stored and stored.programs.keys() == set(PROGRAMS):
        try:
            _install(stored, folder, shared)
        except LoadError as error:
            log.warning("the kernel refused programs that an earlier start has compiled: they are compiled again",
                        error=str(error))  # fmt: skip
            log.debug("output of the verifier", log=error.log)
            cache.remove(fingerprint)
        else:
            return
    started = time.monotonic()
    try:
        compiled = compiler.compiled(source, sizes, PROGRAMS, fresh)
    except compiler.CompilerError as error:
        raise LoadError(_advice(str(error)), str(error)) from error
    log.info("kernel programs compiled", seconds=round(time.monotonic() - started, 1))
    _install(compiled, folder, shared)
    if cache:
        cache.store(fingerprint, compiled)


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


def _install(compiled: Bytecode, folder: Path, shared: Mapping[str, Path]) -> None:
    """Create or adopt the maps, load the programs, and pin all. Raises LoadError."""
    maps: dict[str, int] = {}
    try:
        # A map of maps is made after the one that those in it resemble.
        for name, spec in sorted(compiled.maps.items(), key=lambda one: bool(one[1].inner)):
            maps[name] = _map(name, spec, folder / name, shared.get(name), maps.get(spec.inner, 0))
        for name in PROGRAMS:
            path = folder / f"new_{name}"
            path.unlink(missing_ok=True)
            with kernel.closing(_load(name, compiled.programs[name], compiled.license_name, maps)) as loaded:
                kernel.pin(loaded, path)
    except OSError as error:
        raise LoadError(_advice(str(error)), str(error)) from error
    finally:
        for number in maps.values():
            os.close(number)


def _map(name: str, spec: MapSpec, place: Path, shared: Path | None, inner: int) -> int:
    """Return a descriptor of a map: of the pinned one, of the one that another generation shares, or of a new one."""
    if not spec.is_pinned:
        return _create(name, spec, inner)
    if not place.exists() and shared is not None:
        with kernel.closing(kernel.get(shared)) as other:
            if kernel.map_info(other).size == spec.size:
                kernel.pin(other, place)
    if not place.exists():
        with kernel.closing(_create(name, spec, inner)) as made:
            kernel.pin(made, place)
    return kernel.get(place)


def _create(name: str, spec: MapSpec, inner: int) -> int:
    try:
        return kernel.map_create(*spec.size, name=name, inner=inner)
    except PermissionError:
        _raise_memory_limit()
        return kernel.map_create(*spec.size, name=name, inner=inner)


def _raise_memory_limit() -> None:
    """Lift RLIMIT_MEMLOCK if the kernel lets us: before 5.11, maps and programs beyond it are refused by EPERM."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _load(name: str, program: ProgramCode, license_name: str, maps: Mapping[str, int]) -> int:
    """Load a program. Raises LoadError with the verifier's log."""
    code = program.linked(maps)
    try:
        return kernel.program_load(code, name, license_name)
    except OSError as error:
        if isinstance(error, PermissionError):
            _raise_memory_limit()
        written = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES)
        # Once more, because a log makes the verifier several times as slow.
        with contextlib.suppress(OSError):
            return kernel.program_load(code, name, license_name, log=written)
        text = f"{written.value[-_SHOWN_BYTES:].decode(errors='replace')}\n{error}"
        raise LoadError(_advice(text), text) from error
