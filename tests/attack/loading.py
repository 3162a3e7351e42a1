"""Loads all programs, with and without reports of connections: the verifier of each kernel takes others."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from probe.kernel.maps import Maps
from probe.kernel.program import PROGRAMS, LoadError
from tests.kernel.rig import SIZES, WITH_ENDS
from tests.programs import CACHE

SMALLER: Final = {"CONNECTIONS": 4096, "FRAGMENTS": 1024}
"""Sizes of tables that attacks by numbers fill, for an emulated machine, where a packet takes milliseconds."""
VARIANTS: Final = {"WEIR_ENDS=0": SIZES, "WEIR_ENDS=1": WITH_ENDS}


def load_all(say: Callable[[str], None]) -> bool:
    """Load all programs of each variant; return whether the kernel has taken every one. Say a line for each variant."""
    are_taken = True
    for name, sizes in VARIANTS.items():
        pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
        started = time.monotonic()
        try:
            Maps.open(pins, sizes, cache=CACHE).close()
        except LoadError as error:
            are_taken = False
            say(f"FAILED: the programs of {name} are not taken by this kernel: {error}\n{error.log}")
        else:
            say(f"the {len(PROGRAMS)} programs of {name} load ({time.monotonic() - started:.0f} s)")
        finally:
            shutil.rmtree(pins, ignore_errors=True)
    return are_taken
