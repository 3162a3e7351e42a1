"""The kernel programs that the tests have compiled, in the cache outside the tree: any later test process loads them.

Compiling takes seconds of CPU, and dozens of tests load the programs. A changed source is compiled, because a file of
compiled programs counts only for the source and the compiler that it was made from.
"""

from __future__ import annotations

import os
from pathlib import Path

from probe.kernel.program_cache import ProgramCache

_FOLDER = Path(os.environ.get("KUBEWEIR_CACHE", "/var/cache/kubeweir")) / "programs"

CACHE = ProgramCache(_FOLDER / "tests", most=64)
"""What tests load in their own process: the sources and sizes of all tests."""


def use_for_services() -> None:
    """Have the probes that tests start use a folder of their own beside it, instead of their state folder."""
    os.environ.setdefault("WEIR_PROGRAM_DIR", str(_FOLDER / "services"))
