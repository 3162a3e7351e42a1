"""What was compiled here for another kernel is loaded there without a compiler."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from probe.kernel import compiler
from probe.kernel.maps import Maps
from tests.attack.elsewhere import compile_for
from tests.attack.loading import load_all
from tests.kernel.rig import SIZES
from tests.programs import CACHE


@pytest.mark.kernel
def test_another_kernel_finds_what_was_compiled_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    possible = Path("/sys/devices/system/cpu/possible").read_text().strip()
    cpus = int(possible.rpartition("-")[2]) + 1
    compile_for("5.10.0-elsewhere", cpus, SIZES, print)

    def refuse(*_: object) -> None:
        pytest.fail("the programs are compiled again")

    monkeypatch.setattr(compiler, "compiled", refuse)
    monkeypatch.setattr("platform.release", lambda: "5.10.0-elsewhere")
    said: list[str] = []
    assert load_all(said.append), said
    monkeypatch.setattr("platform.release", lambda: "5.10.0-unknown")
    pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    try:
        with pytest.raises(pytest.fail.Exception, match="compiled again"):
            Maps.open(pins, SIZES, cache=CACHE)
    finally:
        shutil.rmtree(pins, ignore_errors=True)
