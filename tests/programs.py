"""What the tests have compiled, in the cache outside the tree: any later test process loads it.

Compiling the kernel programs takes seconds of CPU, and dozens of tests load them; compiling the Python modules of a
service takes half a second, and hundreds of tests start one. A changed source is compiled: a file of compiled programs
counts only for the source and the compiler that it was made from, and one of bytecode for its source's time and size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from probe.kernel.program_cache import ProgramCache

CACHE_FOLDER = Path(os.environ.get("KUBEWEIR_CACHE", "/var/cache/kubeweir"))
_FOLDER = CACHE_FOLDER / "programs"

CACHE = ProgramCache(_FOLDER / "tests", most=64)
"""What tests load in their own process: the sources and sizes of all tests."""


def use_for_services() -> None:
    """Have the probes that tests start use a folder of their own beside it, instead of their state folder."""
    os.environ.setdefault("WEIR_PROGRAM_DIR", str(_FOLDER / "services"))


def with_kept_bytecode(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Python keeps bytecode, outside the tree, also for a user who wants none in it."""
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(CACHE_FOLDER / "bytecode")}
