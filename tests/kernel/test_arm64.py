"""The kernel's programs for arm64, of which no machine runs the tests: they compile, and this kernel takes them.

Code for the kernel's virtual machine is the same for each processor with this order of bytes, so any such kernel can
check it. What differs is how the compiler reads the source: the headers of that machine, and an unsigned `char`.
"""

from __future__ import annotations

import platform
import secrets
import shutil
from pathlib import Path

import pytest

import bpf
from probe.kernel import compiler
from probe.kernel.maps import Maps
from probe.kernel.program import PROGRAMS
from probe.kernel.source import joined
from tests.attack.loading import VARIANTS

HEADERS = Path("/usr/aarch64-linux-gnu/include")
"""Those of Debian's linux-libc-dev-arm64-cross."""

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(900),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="arm64's programs are those of all other tests here"),
    pytest.mark.skipif(not HEADERS.exists(), reason="needs Debian's linux-libc-dev-arm64-cross (make setup)"),
]


@pytest.fixture(autouse=True)
def for_arm64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCH", "arm64")  # bcc's own variable
    monkeypatch.setattr(compiler, "_USER_API", HEADERS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_this_kernel_takes_the_programs_for_arm64(variant: str) -> None:
    pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    try:
        Maps.open(pins, VARIANTS[variant], cache=None).close()
    finally:
        shutil.rmtree(pins, ignore_errors=True)


def test_bcc_compiles_for_arm64_with_its_headers() -> None:
    """Otherwise the test above is about this machine: here the compiler says what it compiles for."""
    asked = "#ifdef __aarch64__\n#error for arm64\n#endif\n#ifdef HWCAP_ASIMD\n#error its headers\n#endif\n"
    source = f"#include <asm/hwcap.h>\n{asked}" + joined(bpf.POLICY_SOURCE)
    pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    sizes = {**next(iter(VARIANTS.values())), "CPU_STRIDE": 2, "POSSIBLE_CPUS": 2}
    with pytest.raises(compiler.CompilerError) as refused:
        compiler.compiled(source, sizes, PROGRAMS, pins)
    assert "for arm64" in str(refused.value)
    assert "its headers" in str(refused.value)
