"""Compiles the programs on this machine for another kernel, which then only has to load them.

An emulated machine needs a quarter of an hour for each compilation. What is compiled depends on the headers of the
user API, which the emulated machine shares with this one, and on the number of CPUs, but not on the kernel.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import bpf
from probe.kernel import compiler
from probe.kernel.bytecode import Bytecode
from probe.kernel.maps import cpu_stride
from probe.kernel.program import PROGRAMS
from probe.kernel.source import joined
from tests.attack.loading import VARIANTS
from tests.programs import CACHE


def compile_for(release: str, cpus: int, sizes: Mapping[str, int], say: Callable[[str], None]) -> None:
    """Store the programs where tests find them on a machine with this kernel and so many CPUs.

    These are the variants that ``--load`` loads, and the one with ``sizes``, which attacks use. They are kept for this
    machine's kernel, too, because the programs for the next release are the same. Raises CompilerError.
    """
    source = joined(bpf.POLICY_SOURCE)
    for variant in (*VARIANTS.values(), sizes):
        complete = {**variant, "CPU_STRIDE": cpu_stride(cpus), "POSSIBLE_CPUS": cpus}
        wanted = _fingerprint(release, source, complete)
        if CACHE.load(wanted) is not None:
            continue
        own = _fingerprint(platform.release(), source, complete)
        compiled = CACHE.load(own)
        if compiled is None:
            say(f"compiling the programs for {cpus} processors")
            compiled = _compiled(source, complete)
            CACHE.store(own, compiled)
        CACHE.store(wanted, compiled)


def _compiled(source: str, sizes: dict[str, int]) -> Bytecode:
    pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    return compiler.compiled(source, sizes, PROGRAMS, pins)


def _fingerprint(release: str, source: str, sizes: dict[str, int]) -> str:
    with patch("platform.release", return_value=release):
        return compiler.fingerprint(source, sizes)
